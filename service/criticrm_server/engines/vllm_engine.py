"""Critique and reward from one pass of unmodified vLLM, in process (docs/adr/0001).

The reward token's raw logit is read at each step with `logprob_token_ids` under `logprobs_mode="raw_logits"`.
Raw logits are taken before biases, so the same request can ban the token from being written.
"""

# ruff: noqa: E402 - vLLM reads its environment, and begins to log, when it is imported
from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from multiprocessing import resource_tracker
from typing import Any

from prometheus_client.registry import Collector

from criticrm_model import Completion
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.cores import compute_on_all_cores

from ..errors import EngineDead, EngineFailed, NotSupported
from ..settings import Settings
from ..together import together
from ..tracing import current_request_id, headers_of_job
from .backends import Backends
from .base import Facts, Job, Output, Timings
from .followed import Followed
from .readout import Steps, read_completion, sampling_parameters
from .vllm_arguments import engine_arguments
from .vllm_environment import prepare_environment

prepare_environment()

from vllm import AsyncEngineArgs, SamplingParams, __version__
from vllm.config import VllmConfig
from vllm.inputs import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError


class VLLMEngine:
    """One engine, one copy of the weights, one KV cache."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raises CriticRMError: the platform can't do what is asked, or there are not enough GPUs."""
        self.facts = Facts()
        self._arguments = engine_arguments(checkpoint, settings)
        self.max_model_len: int = self._arguments["max_model_len"]
        self._batch_invariant = settings.batch_invariant
        self._llm: AsyncLLM | None = None
        # Copies of the model, each with a prefix cache of its own: a conversation's jobs go to the same one.
        self._ranks = Backends([str(rank) for rank in range(settings.data_parallel_size)])
        for rank in self._ranks.all:
            rank.up = True
        self._tokens = checkpoint.manifest.reward_tokens
        self._stop_token_ids = checkpoint.renderer.stop_token_ids

    @property
    def llm(self) -> AsyncLLM:
        """vLLM's engine, once this one has started."""
        assert self._llm is not None
        return self._llm

    async def start(self) -> None:
        """Load the weights; half a minute and more, in which the event loop does nothing else."""
        arguments = self._arguments
        if self._batch_invariant:
            os.environ["VLLM_BATCH_INVARIANT"] = "1"  # read when a kernel's module is imported, in the workers
        if current_platform.is_cpu():
            compute_on_all_cores()
        if current_platform.is_cpu() and arguments["enforce_eager"] and not shutil.which(os.environ.get("CXX", "g++")):
            # Eager or not, vLLM 0.32 compiles parts of its sampler at the first request (v1/sample/ops/logprobs.py),
            # and without a compiler the engine dies of that request.
            os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        # A terminal sends Ctrl-C to the engine's processes too. They inherit this mask, and so live through the drain.
        resource_tracker.ensure_running()  # it lifts the mask when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            # On a GPU the sizes of a step are those that vLLM's own server has there.
            self._llm = AsyncLLM.from_engine_args(
                AsyncEngineArgs(**arguments), usage_context=UsageContext.OPENAI_API_SERVER
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self.facts = _facts(self._llm.vllm_config)

    async def run(self, job: Job) -> Output:
        if job.settle is not None and job.n > 1:  # so that each ends by itself
            outputs = await together([self.run(one) for one in job.split()])
            return replace(outputs[0], completions=[output.completions[0] for output in outputs])
        params = SamplingParams(
            **sampling_parameters(job, self._tokens, self._stop_token_ids),
            flat_logprobs=True,
            output_kind=RequestOutputKind.CUMULATIVE if job.watch or job.settle else RequestOutputKind.FINAL_ONLY,
        )
        final: Any = None
        written: dict[int, Any] = {}  # while it is followed, an output holds the completions that have grown
        followed = [Followed(job, k, self._tokens) for k in range(job.n)] if job.watch or job.settle else None
        settled = False
        rank = self._ranks.choose(job.group)
        assert rank is not None
        try:
            running = self.llm.generate(
                tokens_input(job.token_ids),
                params,
                _job_id(),
                trace_headers=self._trace_headers(),
                data_parallel_rank=int(rank.url) if len(self._ranks.all) > 1 else None,
            )
            with self._ranks.working(rank, job.group, job.n):
                async with aclosing(running):  # which ends it in the engine too
                    async for output in running:
                        final = output
                        for completion in output.outputs:
                            written[completion.index] = completion
                            if followed is not None:
                                settled = followed[completion.index].grown(completion.token_ids, completion.logprobs)
                        if settled:
                            written[0].finish_reason = written[0].finish_reason or "settled"
                            break
        except EngineDeadError as error:
            raise EngineDead("the engine died; this server is about to exit") from error
        except EngineGenerateError as error:
            await self.check_health()  # its connection broke because it died
            raise EngineFailed("the engine refused a request") from error
        if final is None or not (final.finished or settled):
            raise EngineFailed("the engine ended a request without an answer")
        return Output(
            completions=[self._completion(written[k], job) for k in range(job.n)],
            cached_tokens=final.num_cached_tokens or 0,
            timings=_timings(final.metrics),
        )

    def _trace_headers(self) -> dict[str, str] | None:
        """The headers that join vLLM's spans to the request's, where vLLM sends any."""
        endpoint = self.llm.vllm_config.observability_config.otlp_traces_endpoint
        return None if endpoint is None else headers_of_job()

    async def check_health(self) -> None:
        try:
            await self.llm.check_health()
        except EngineDeadError as error:
            raise EngineDead("the engine died; this server is about to exit") from error

    async def reload(self, checkpoint: Checkpoint) -> None:
        """Stop and reward tokens are the same: `weights.reload` has compared them."""
        if current_platform.is_cpu():
            # Layers multiply with packed copies (dispatch_cpu_unquantized_gemm), and vLLM 0.32 leaves that of a tied
            # LM head as it was.
            raise NotSupported(
                "vLLM can't reload weights in place on a CPU: restart the server with the other checkpoint"
            )
        try:
            await self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint.folder)})
            await self.llm.reset_prefix_cache()
        except EngineDeadError as error:
            raise EngineDead("the engine died while it took other weights; this server is about to exit") from error
        except Exception as error:
            raise EngineFailed(f"the engine could not take these weights: {error}") from error

    async def sleep(self) -> None:
        self._check_sleeps()
        await self.llm.sleep(level=1)

    async def wake(self) -> None:
        self._check_sleeps()
        await self.llm.wake_up()
        await self.llm.reset_prefix_cache()

    def _check_sleeps(self) -> None:
        if not current_platform.is_sleep_mode_available():
            raise NotSupported(f"vLLM has no sleep mode on this platform ({current_platform.device_name})")
        if not self.llm.vllm_config.model_config.enable_sleep_mode:
            raise NotSupported("sleep mode is off: start the server with --sleep-mode")

    async def close(self) -> None:
        if self._llm is None:
            return
        self._llm.shutdown()
        await asyncio.sleep(0)  # its output task ends
        self._llm = None
        gc.collect()  # now: its finaliser fails with a traceback in an interpreter that is being taken down

    def collectors(self) -> Sequence[Collector]:
        return ()  # vLLM's own are in the global registry

    def _completion(self, completion: Any, job: Job) -> Completion:
        # The entries of a step: the written token's, then each reward token's.
        flat, token_ids = completion.logprobs, list(completion.token_ids)
        width = 1 + len(self._tokens.ids)
        if list(flat.token_ids[::width]) != token_ids:
            raise EngineFailed("the engine returned logits of other tokens than it wrote")
        entries = [Steps(flat.token_ids[k::width], flat.logprobs[k::width]) for k in range(1, width)]
        return read_completion(token_ids, completion.finish_reason, entries, self._tokens, job)


def _facts(config: VllmConfig) -> Facts:
    model, scheduler, compilation = config.model_config, config.scheduler_config, config.compilation_config
    head, body = (str(dtype).removeprefix("torch.") for dtype in (model.head_dtype, model.dtype))
    attention = config.attention_config.backend
    return Facts(
        exact=body == "float32",
        float32_head=head == "float32",
        cache_block=config.cache_config.block_size,
        step_tokens=scheduler.max_num_batched_tokens if scheduler.enable_chunked_prefill else None,
        described={
            "vllm": __version__,
            "platform": current_platform.device_name,
            "runner": "V2" if config.use_v2_model_runner else "V1",
            "dtype": body,
            "head_dtype": head,
            "attention": "chosen by vLLM" if attention is None else attention.name,
            "cuda_graphs": "none" if compilation.cudagraph_mode is None else compilation.cudagraph_mode.name.lower(),
            "async_scheduling": "on" if scheduler.async_scheduling else "off",
            "chunked_prefill": "on" if scheduler.enable_chunked_prefill else "off",
        },
    )


def _job_id() -> str:
    """Unique, and found again by the id of its request."""
    return "-".join(filter(None, (current_request_id.get(), uuid.uuid4().hex)))


def _timings(stats: Any) -> Timings | None:
    """From vLLM's request stats, None for an n > 1 request it keeps none for. Monotonic seconds of the engine."""
    if stats is None or not stats.first_token_ts:
        return None
    return Timings(
        queue_s=max(0.0, stats.scheduled_ts - stats.queued_ts),
        prefill_s=max(0.0, stats.first_token_ts - stats.scheduled_ts),
        decode_s=max(0.0, stats.last_token_ts - stats.first_token_ts),
    )
