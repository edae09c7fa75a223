"""What a checkpoint takes in memory, and what this machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ctypes.util import find_library
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from criticrm_model import CriticRMError

from .findings import Finding
from .settings import Settings

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

_GIB = 2**30
_BESIDE = 2 * _GIB  # what a server takes beside weights and KV cache: Python, vLLM, activations; measured on a CPU
_GPU_UTILIZATION = 0.92  # vLLM's default


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


def sizes_of(checkpoint: Checkpoint, settings: Settings) -> Sizes:
    """From the headers of the weights' files and from config.json: nothing is loaded.

    Raises:
        CriticRMError: the folder has no safetensors.
    """
    from safetensors import safe_open

    files = sorted(checkpoint.folder.glob("*.safetensors"))
    if not files:
        raise CriticRMError(f"{checkpoint.folder}: no *.safetensors, so the size of the weights is unknown")
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


def find_memory(settings: Settings, checkpoint: Checkpoint) -> Iterator[Finding]:
    """What is there, what the weights take, and how many full sequences the KV cache then holds."""
    sizes, longest = sizes_of(checkpoint, settings), checkpoint.max_model_len
    weights = f"{sizes.parameters / 1e6:,.0f} million parameters, weights {sizes.weights / _GIB:.2f} GiB"
    gpus = _gpus() if settings.engine == "vllm" else []
    if gpus:
        for number, (name, free, total) in enumerate(gpus):
            yield Finding("ok", f"GPU {number}", f"{name}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free")
        together = settings.tensor_parallel_size * settings.pipeline_parallel_size
        if together * settings.data_parallel_size > len(gpus):
            needed = f"{together * settings.data_parallel_size} GPUs are required, this machine has {len(gpus)}"
            yield Finding("problem", "GPUs", needed, "lower the parallel sizes")
            return
        share = settings.gpu_memory_utilization or _GPU_UTILIZATION
        free, total = min(gpu[1] for gpu in gpus[:together]), min(gpu[2] for gpu in gpus[:together])
        if free < share * total:
            taken = f"vLLM needs {share * total / _GIB:.1f} GiB of a GPU, {free / _GIB:.1f} are free"
            yield Finding(
                "problem", "GPU memory", taken, "stop other processes on the GPU, or lower --gpu-memory-utilization"
            )
        cache = int((share * total - _BESIDE) * together) - sizes.weights
        longest = settings.max_model_len or longest
    else:
        free = available_memory()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        yield Finding("ok", "machine", f"no GPU; {cores} cores, {free / _GIB:.1f} GiB of memory available")
        if settings.engine == "vllm" and find_library("numa") is None:
            yield Finding("problem", "libnuma", "not installed; vLLM's CPU kernels need it", "apt-get install libnuma1")
        cache = int(settings.kv_cache_gib * _GIB) if settings.engine == "vllm" else 0
        needed_bytes = sizes.weights + cache + _BESIDE
        if needed_bytes > free:
            text = (
                f"weights, KV cache and 2 GiB more need {needed_bytes / _GIB:.1f} GiB, {free / _GIB:.1f} are available"
            )
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
