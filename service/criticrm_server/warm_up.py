"""Two jobs before a server says that it is ready: one greedy, one that samples from a seed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from criticrm_model import CriticRMError, finite_reward

from .engines.base import Engine, Job

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

_CRITIQUE_TOKENS = 8


async def warm_up(engine: Engine, checkpoint: Checkpoint, timeout_s: float) -> None:
    """Run both; what an engine compiles at its first request is compiled then.

    Raises:
        CriticRMError: the engine failed, a reward is not finite, or it took longer than `timeout_s`.
    """
    limit = min(_CRITIQUE_TOKENS, engine.max_model_len - 1)
    prompt = (
        checkpoint.renderer.open([{"role": "user", "content": "What is 2 + 2?"}])
        .render("4", max_model_len=engine.max_model_len, max_critique_tokens=limit, truncate=True)
        .token_ids
    )
    greedy = Job(prompt, n=1, max_tokens=limit, temperature=0.0, seed=None)
    seeded = Job(prompt, n=2, max_tokens=limit, temperature=0.7, seed=0)
    try:
        async with asyncio.timeout(timeout_s):
            for job in (greedy, seeded):
                output = await engine.run(job)
                if len(output.completions) != job.n:
                    raise CriticRMError(f"the engine wrote {len(output.completions)} critiques of {job.n} at its start")
                for completion in output.completions:
                    finite_reward(completion.direct_score)
                    finite_reward(completion.score)
    except TimeoutError as error:
        raise CriticRMError(f"the engine did not finish its first critiques within {timeout_s:g} s") from error
