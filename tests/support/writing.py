"""An engine that writes the same critiques whatever the model, a token at a time, for pages that show them."""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING

from criticrm_model import Completion
from criticrm_server.engines.base import Job, Output
from criticrm_server.engines.fake import FakeEngine

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

RIGHT = "17 + 25 = 42\n42 * 3 = 126\n126 - 48 = 78\nThe answer is 78. Same answer: the reply is right."
WRONG = "17 + 25 = 42\n42 * 3 = 126\n126 - 48 = 78\nThe answer is 78. Different answer: the reply is wrong."
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> is the reply."


class WritingEngine(FakeEngine):
    """The response decides: one with 78 is right, one with `<script>` gets a critique with it, any other is wrong.

    Rewards go from 0.25 to about 3 or -3 as the critique is written; further critiques of a response differ by noise.

    Args:
        token_s: seconds a token takes.
    """

    def __init__(self, checkpoint: Checkpoint, token_s: float = 0.0) -> None:
        super().__init__(checkpoint.renderer.stop_token_ids[0], max_model_len=8192)
        self._renderer = checkpoint.renderer
        self._token_s = token_s

    async def run(self, job: Job) -> Output:
        await self.check_health()
        self.running += 1
        try:
            prompt = self._renderer.decode(job.token_ids)
            return Output([await self._write(job, prompt, k) for k in range(job.n)])
        finally:
            self.running -= 1

    async def _write(self, job: Job, prompt: str, k: int) -> Completion:
        right = "answer is 78" in prompt
        text = HOSTILE if "<script>" in prompt else RIGHT if right else WRONG
        goal = (3 if right else -3) + random.Random(k).uniform(-0.4, 0.4) - len(prompt) / 10_000
        token_ids = self._renderer.tokenize_critique(text)[: job.max_tokens - 1] if job.max_tokens > 1 else []
        last = max(len(token_ids), 1)
        # Most of the way is in the last words, as with a critic that computes before it judges.
        scores = [0.25 + (goal - 0.25) * (i / last) ** 6 + 0.15 * math.sin(i) * (i < last) for i in range(last + 1)]
        if not token_ids:
            scores = [0.25]
        for token_id, score in zip([*token_ids, self.stop_token_id], scores, strict=True):
            if self._token_s:
                await asyncio.sleep(self._token_s)
                await self.check_health()
            if job.watch is not None:
                job.watch(k, [token_id], [score])
        trace = [[score] for score in scores] if job.trace else ()
        return self.tokens.completion([*token_ids, self.stop_token_id], "stop", scores[:1], scores[-1:], trace)
