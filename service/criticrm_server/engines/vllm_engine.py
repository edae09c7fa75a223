"""Critique and reward from one pass of unmodified vLLM, in process (docs/adr/0001).

The reward token's raw logit is read at each step with `logprob_token_ids` under `logprobs_mode="raw_logits"`.
Raw logits are taken before biases, so the same request can ban the token from being written.
"""

# ruff: noqa: E402 - vLLM reads its environment, and begins to log, when it is imported
from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import signal
import uuid
import warnings
from multiprocessing import resource_tracker
from typing import Any

from criticrm_model import Completion, CriticRMError
from criticrm_model.checkpoint import Checkpoint

from ..errors import EngineDead, EngineFailed
from ..settings import Settings
from .base import Job, Output, Timings
from .readout import CPU_ENGINE_ARGUMENTS, ENGINE_ARGUMENTS, read_completion, sampling_parameters

# vLLM's warnings are a line a weight for a float32 checkpoint in bfloat16.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
warnings.filterwarnings("ignore", "`torch.distributed.reduce_op` is deprecated", FutureWarning)

import torch
from vllm import AsyncEngineArgs, SamplingParams, envs
from vllm.inputs import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.utils.cpu_resource_utils import get_visible_memory_node
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

logger = logging.getLogger(__name__)

_CPU_MAX_MODEL_LEN = 4096


class VLLMEngine:
    """One engine, one copy of the weights, one KV cache."""

    def __init__(self, llm: AsyncLLM, reward_token_id: int, stop_token_ids: tuple[int, ...]) -> None:
        self._llm = llm
        self._reward_token_id = reward_token_id
        self._stop_token_ids = stop_token_ids

    @classmethod
    def start(cls, checkpoint: Checkpoint, settings: Settings) -> VLLMEngine:
        """Load the weights; half a minute and more. Needs a running event loop."""
        arguments = engine_arguments(checkpoint, settings)
        if current_platform.is_cpu() and arguments["enforce_eager"] and not shutil.which(os.environ.get("CXX", "g++")):
            # Eager or not, vLLM 0.32 compiles parts of its sampler at the first request (v1/sample/ops/logprobs.py),
            # and without a compiler the engine dies of that request.
            os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        # A terminal sends Ctrl-C to the engine's processes too. They inherit this mask, and so live through the drain.
        resource_tracker.ensure_running()  # it lifts the mask when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return cls(llm, checkpoint.manifest.reward_token_id, checkpoint.renderer.stop_token_ids)

    async def run(self, job: Job) -> Output:
        params = SamplingParams(
            **sampling_parameters(job, self._reward_token_id, self._stop_token_ids),
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final = None
        try:
            async for output in self._llm.generate(tokens_input(job.token_ids), params, uuid.uuid4().hex):
                final = output
        except EngineDeadError as error:
            raise EngineDead("the engine died; this server is about to exit") from error
        except EngineGenerateError as error:
            await self.check_health()  # its connection broke because it died
            raise EngineFailed("the engine refused a request") from error
        if final is None or not final.finished:
            raise EngineFailed("the engine ended a request without an answer")
        return Output(
            completions=[self._completion(completion) for completion in final.outputs],
            cached_tokens=final.num_cached_tokens or 0,
            timings=_timings(final.metrics),
        )

    async def check_health(self) -> None:
        try:
            await self._llm.check_health()
        except EngineDeadError as error:
            raise EngineDead("the engine died; this server is about to exit") from error

    async def close(self) -> None:
        self._llm.shutdown()
        await asyncio.sleep(0)  # its output task ends
        del self._llm
        gc.collect()  # now: its finaliser fails with a traceback in an interpreter that is being taken down

    def _completion(self, completion: Any) -> Completion:
        # Two entries a step: the sampled token's, then the reward token's.
        flat = completion.logprobs
        steps = zip(flat.token_ids[1::2], flat.logprobs[1::2], strict=True)
        rewards = [logit for token_id, logit in steps if token_id == self._reward_token_id]
        return read_completion(list(completion.token_ids), completion.finish_reason, rewards, self._reward_token_id)


def engine_arguments(checkpoint: Checkpoint, settings: Settings) -> dict[str, Any]:
    """vLLM's engine arguments for these settings; the readout's needs and the machine's limits are met here.

    Raises:
        CriticRMError: the model can't be shared between processes in this way, or there are not enough GPUs.
    """
    on_cpu = current_platform.is_cpu()
    if faults := _parallelism_faults(checkpoint, settings):
        raise CriticRMError("\n  ".join(["this model can't be shared like this here:", *faults]))
    max_model_len = max_model_len_for(checkpoint, settings)
    arguments: dict[str, Any] = {
        "model": str(checkpoint.folder),
        "dtype": settings.dtype,
        "max_model_len": max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "pipeline_parallel_size": settings.pipeline_parallel_size,
        "data_parallel_size": settings.data_parallel_size,
        "enable_prefix_caching": settings.prefix_caching,
        "enforce_eager": on_cpu if settings.enforce_eager is None else settings.enforce_eager,
        "trust_remote_code": settings.trust_remote_code,
        "use_tqdm_on_load": False,
        **ENGINE_ARGUMENTS,
    }
    if settings.head_float32 or (settings.head_float32 is None and not on_cpu):
        arguments["hf_overrides"] = {"head_dtype": "float32"}
    if on_cpu:
        # Given in bytes, vLLM neither asks for a share of all memory nor fails where that share is not free.
        arguments["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
        arguments |= CPU_ENGINE_ARGUMENTS
        # The longest prompt fits in a step beside a decode of every other sequence, or it would wait for all to end.
        arguments["max_num_batched_tokens"] = max(max_model_len + settings.max_num_seqs, 4096)
    elif settings.gpu_memory_utilization:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    return arguments


def _parallelism_faults(checkpoint: Checkpoint, settings: Settings) -> list[str]:
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
    elif workers > (gpus := torch.cuda.device_count()):  # does not initialise CUDA, which forked workers could not use
        faults.append(f"{product} is {workers}, but there are {gpus} GPUs")
    return faults


def max_model_len_for(checkpoint: Checkpoint, settings: Settings) -> int:
    """The longest prompt with its critique, in tokens."""
    if settings.max_model_len:
        return settings.max_model_len
    return min(checkpoint.max_model_len, _CPU_MAX_MODEL_LEN) if current_platform.is_cpu() else checkpoint.max_model_len


def _timings(stats: Any) -> Timings | None:
    """From vLLM's request stats, None for an n > 1 request it keeps none for. Monotonic seconds of the engine."""
    if stats is None or not stats.first_token_ts:
        return None
    return Timings(
        queue_s=max(0.0, stats.scheduled_ts - stats.queued_ts),
        prefill_s=max(0.0, stats.first_token_ts - stats.scheduled_ts),
        decode_s=max(0.0, stats.last_token_ts - stats.first_token_ts),
    )
