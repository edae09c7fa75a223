"""vLLM's engine arguments from settings, and what a platform can't do."""

# ruff: noqa: E402 - vLLM reads its environment, and begins to log, when it is imported
from __future__ import annotations

from dataclasses import fields
from typing import Any

from criticrm_model import CriticRMError
from criticrm_model.checkpoint import Checkpoint

from ..settings import Settings
from .readout import CPU_ENGINE_ARGUMENTS, ENGINE_ARGUMENTS
from .vllm_environment import prepare_environment
from .vllm_options import vllm_args_faults

prepare_environment()

import torch
from vllm import AsyncEngineArgs, envs
from vllm.platforms import current_platform
from vllm.utils.cpu_resource_utils import get_visible_memory_node

_CPU_MAX_MODEL_LEN = 4096
_CPU_MAX_NUM_SEQS = 128


def engine_arguments(checkpoint: Checkpoint, settings: Settings) -> dict[str, Any]:
    """vLLM's engine arguments for these settings; the readout's needs and the machine's limits are met here.

    Raises:
        CriticRMError: the platform can't do what is asked, or there are not enough GPUs.
    """
    on_cpu = current_platform.is_cpu()
    known = [field.name for field in fields(AsyncEngineArgs)]
    faults = _platform_faults(checkpoint, settings) + vllm_args_faults(settings.vllm_args, known, on_cpu=on_cpu)
    if faults:
        raise CriticRMError("\n  ".join(["this model can't be served like this here:", *faults]))
    max_model_len = max_model_len_for(checkpoint, settings)
    arguments: dict[str, Any] = {
        "model": str(checkpoint.folder),
        "dtype": settings.dtype,
        "max_model_len": max_model_len,
        "served_model_name": settings.model_name,  # its metrics' label, else the folder's path
        "max_num_seqs": settings.max_num_seqs or (_CPU_MAX_NUM_SEQS if on_cpu else None),
        "tensor_parallel_size": settings.tensor_parallel_size,
        "pipeline_parallel_size": settings.pipeline_parallel_size,
        "data_parallel_size": settings.data_parallel_size,
        "enable_prefix_caching": settings.prefix_caching,
        "enforce_eager": on_cpu if settings.enforce_eager is None else settings.enforce_eager,
        "trust_remote_code": settings.trust_remote_code,
        "use_tqdm_on_load": False,
        "enable_sleep_mode": settings.sleep_mode,
        **ENGINE_ARGUMENTS,
    }
    if settings.head_float32 or (settings.head_float32 is None and not on_cpu):
        arguments["hf_overrides"] = {"head_dtype": "float32"}
    if on_cpu:
        # Given in bytes, vLLM neither asks for a share of all memory nor fails where that share is not free.
        arguments["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
        arguments |= CPU_ENGINE_ARGUMENTS
        # The longest prompt fits in a step beside a decode of every other sequence, or it would wait for all to end.
        arguments["max_num_batched_tokens"] = max(max_model_len + arguments["max_num_seqs"], 4096)
    elif settings.gpu_memory_utilization:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    if settings.vllm_args:
        arguments |= settings.vllm_args
        try:
            AsyncEngineArgs(**arguments)
        except (TypeError, ValueError) as error:
            raise CriticRMError(f"vLLM does not take vllm_args {settings.vllm_args}: {error}") from error
    return arguments


def _platform_faults(checkpoint: Checkpoint, settings: Settings) -> list[str]:
    """All of what vLLM would fail at one after the other, after a minute, in a process whose words are lost."""
    tensor, pipeline = settings.tensor_parallel_size, settings.pipeline_parallel_size
    workers = tensor * pipeline * settings.data_parallel_size
    config = checkpoint.config
    heads: int = getattr(config, "num_attention_heads", tensor)  # Mamba has none
    key_value_heads: int = getattr(config, "num_key_value_heads", None) or heads
    faults = []
    if heads % tensor:
        faults.append(f"tensor_parallel_size {tensor} does not divide the model's {heads} attention heads")
    if max(key_value_heads, tensor) % min(key_value_heads, tensor):
        faults.append(
            f"tensor_parallel_size {tensor} neither divides nor is a multiple of the {key_value_heads} key-value heads"
        )
    if pipeline > config.num_hidden_layers:
        faults.append(f"pipeline_parallel_size {pipeline} exceeds the model's {config.num_hidden_layers} layers")
    product = "tensor_parallel_size x pipeline_parallel_size x data_parallel_size"
    if settings.batch_invariant and not current_platform.is_cuda_alike():
        faults.append("batch_invariant needs GPUs: vLLM has no such kernels for this platform; use dtype float32")
    if current_platform.is_cpu():
        if pipeline > 1:
            # CPUWorker skips the dummy run that would allocate what stages hand on (intermediate_tensors is None).
            faults.append(
                f"pipeline_parallel_size {pipeline} needs GPUs: vLLM 0.32 dies of its first request with it on a CPU"
            )
        nodes = len(get_visible_memory_node())
        if workers > nodes and envs.VLLM_CPU_OMP_THREADS_BIND == "auto":
            faults.append(
                f"{product} is {workers}, and without GPUs vLLM puts each of these on a NUMA node of its own; this "
                f"machine has {nodes}. To share a node, say which cores each gets: VLLM_CPU_OMP_THREADS_BIND='0-3|4-7'"
            )
        if settings.sleep_mode:
            faults.append("sleep_mode needs a GPU: vLLM has none on a CPU")
    elif workers > (gpus := torch.cuda.device_count()):  # does not initialise CUDA, which forked workers could not use
        faults.append(f"{product} is {workers}, but there are {gpus} GPUs")
    return faults


def max_model_len_for(checkpoint: Checkpoint, settings: Settings) -> int:
    """The longest prompt with its critique, in tokens."""
    if settings.max_model_len:
        return settings.max_model_len
    return min(checkpoint.max_model_len, _CPU_MAX_MODEL_LEN) if current_platform.is_cpu() else checkpoint.max_model_len
