"""The reference engine: transformers, one job at a time. For machines without vLLM, and for comparison."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel

from ..settings import Settings
from .base import Job, Output, Timings


class TransformersEngine:
    def __init__(self, model: ReferenceModel) -> None:
        self._model = model
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers")

    @classmethod
    def start(cls, checkpoint: Checkpoint, settings: Settings) -> TransformersEngine:
        return cls(
            ReferenceModel.load(
                checkpoint.folder,
                checkpoint.manifest.reward_token_id,
                checkpoint.renderer.stop_token_ids,
                dtype=settings.dtype,
                trust_remote_code=settings.trust_remote_code,
            )
        )

    async def run(self, job: Job) -> Output:
        asked = time.monotonic()

        def critique() -> Output:
            began = time.monotonic()
            completions, _ = self._model.critique(
                [job.token_ids] * job.n, max_tokens=job.max_tokens, temperature=job.temperature, seed=job.seed
            )
            return Output(completions, timings=Timings(began - asked, 0.0, time.monotonic() - began))

        # A cancelled job still in the thread's queue never starts; one that runs is finished and dropped.
        return await asyncio.get_running_loop().run_in_executor(self._thread, critique)

    async def check_health(self) -> None: ...

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
