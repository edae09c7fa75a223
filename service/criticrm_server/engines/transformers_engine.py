"""The reference engine: transformers, one job at a time. For machines without vLLM, and for comparison."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from prometheus_client.registry import Collector

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel

from ..settings import Settings
from .base import Facts, FixedWeights, Job, Output, Timings
from .watching import watch_at_the_end


class TransformersEngine(FixedWeights):
    why = "the engine transformers can't"

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self.facts = Facts()
        self.max_model_len = settings.max_model_len or checkpoint.max_model_len
        self._checkpoint = checkpoint
        self._settings = settings
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers")

    async def start(self) -> None:
        await self.reload(self._checkpoint)
        dtype, device = str(self._model.model.dtype).removeprefix("torch."), str(self._model.model.device)
        self.facts = Facts(exact=dtype == "float32", described={"dtype": dtype, "device": device})

    async def reload(self, checkpoint: Checkpoint) -> None:
        load = partial(_load, checkpoint, self._settings)
        self._model = await asyncio.get_running_loop().run_in_executor(self._thread, load)

    async def run(self, job: Job) -> Output:
        asked = time.monotonic()

        def critique() -> Output:
            began = time.monotonic()
            completions, _ = self._model.critique(
                [job.token_ids] * job.n,
                max_tokens=job.max_tokens,
                temperature=job.temperature,
                seed=job.seed,
                trace=job.trace,
                settle=job.settle,
            )
            return Output(completions, timings=Timings(began - asked, 0.0, time.monotonic() - began))

        # A cancelled job still in the thread's queue never starts; one that runs is finished and dropped.
        output = await asyncio.get_running_loop().run_in_executor(self._thread, critique)
        await watch_at_the_end(job, output)
        return output

    async def check_health(self) -> None: ...

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def collectors(self) -> Sequence[Collector]:
        return ()


def _load(checkpoint: Checkpoint, settings: Settings) -> ReferenceModel:
    return ReferenceModel.load(
        checkpoint.folder,
        checkpoint.manifest.reward_tokens,
        checkpoint.renderer.stop_token_ids,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
    )
