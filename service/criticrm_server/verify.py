"""The same tokens through vLLM and through transformers, and how far the rewards are apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from criticrm_model import Completion

from .agreement import Agreement, Rewards
from .critique_limit import critique_limit
from .engines.base import Engine, Facts, Job, Output
from .engines.factory import create_engine
from .settings import Settings

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint


# In standard deviations of the score, of the root mean square: what bfloat16 explains.
APART = 0.15
_TEMPERATURE = 0.7


Passes = dict[str, list[tuple[Job, Completion]]]  # greedy; the same prompts again, from the cache; sampled


def find_faults(checkpoint: Checkpoint, found: Mapping[str, Agreement], *, exact: bool, tolerance: float) -> list[str]:
    """A sentence for each agreement that is out of bounds: `tolerance` if `exact`, else `APART` deviations."""
    if exact:
        worst = max(a.max_abs_diff for a in found.values())
        return [f"{worst:.2e} exceeds the tolerance {tolerance:g}"] if worst > tolerance else []
    calibration, direct_std = checkpoint.manifest.calibration, checkpoint.manifest.direct_std
    faults = []
    for name, a in found.items():
        std = direct_std if calibration is None or name.startswith(("direct", "original")) else calibration.score.std
        if name.removesuffix(", direct") in (reward.name for reward in checkpoint.manifest.rewards):
            std = a.std  # calibrated is the score alone
        if a.rms_diff > APART * std:
            faults.append(f"{name}: root mean square {a.rms_diff:.2e} exceeds {APART} of the deviation {std:.3g}")
    return faults


async def run_passes(
    checkpoint: Checkpoint, settings: Settings, conversations: Sequence[tuple[Any, str]], *, samples: int
) -> tuple[Passes, Facts]:
    """What vLLM wrote and read, and how it computes.

    Args:
        samples: critiques of a conversation in the sampled pass, of a quarter of them.
    """
    engine = create_engine(checkpoint, settings)
    try:
        await engine.start()
        max_tokens = critique_limit(settings, checkpoint.manifest, engine.max_model_len)
        prompts = [
            checkpoint.renderer.open(prompt)
            .render(response, max_model_len=engine.max_model_len, max_critique_tokens=max_tokens, truncate=True)
            .token_ids
            for prompt, response in conversations
        ]
        greedy = [Job(ids, n=1, max_tokens=max_tokens, temperature=0.0, seed=None) for ids in prompts]
        again = [replace(job, max_tokens=1, ban=None) for job in greedy]
        sampled = [
            replace(job, n=samples, temperature=_TEMPERATURE, seed=seed)
            for seed, job in enumerate(greedy[: -(-len(greedy) // 4)])
        ]
        passes: Passes = {}
        with tqdm(total=len(greedy) + len(again) + len(sampled), desc=settings.engine, unit="request") as progress:
            for name, jobs in (("greedy", greedy), ("cached", again), ("sampled", sampled)):
                outputs = await asyncio.gather(*(_run(engine, job, progress) for job in jobs))
                passes[name] = [(job, c) for job, o in zip(jobs, outputs, strict=True) for c in o.completions]
        return passes, engine.facts
    finally:
        await engine.close()


def score_by_reference(checkpoint: Checkpoint, settings: Settings, passes: Passes) -> dict[str, list[Completion]]:
    """Each completion with its rewards by transformers."""
    from criticrm_model.reference import ReferenceModel

    model = ReferenceModel.load(
        checkpoint.folder,
        checkpoint.manifest.reward_tokens,
        checkpoint.renderer.stop_token_ids,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
    )
    with tqdm(total=sum(map(len, passes.values())), desc="transformers", unit="sequence") as progress:

        def read(job: Job, completion: Completion) -> Completion:
            progress.update()
            return model.read(job.token_ids, completion.token_ids)

        return {name: [read(*one) for one in done] for name, done in passes.items()}


def pair_rewards(
    checkpoint: Checkpoint, passes: Passes, reference: Mapping[str, Sequence[Completion]]
) -> dict[str, Rewards]:
    """Comparisons by their name; with several rewards, also one for each."""
    found: dict[str, Rewards] = {}

    def add(name: str, pass_: str, read: Callable[[Completion], float]) -> None:
        found[name] = Rewards([read(c) for _, c in passes[pass_]], [read(c) for c in reference[pass_]])

    add("direct_score", "greedy", lambda c: c.direct_score)
    add("score", "greedy", lambda c: c.score)
    add("direct_score, cached", "cached", lambda c: c.direct_score)
    add("score, sampled", "sampled", lambda c: c.score)
    rewards = checkpoint.manifest.rewards
    for k, reward in enumerate(rewards if len(rewards) > 1 else ()):
        add(f"{reward.name}, direct", "greedy", lambda c, k=k: c.rewards[k][0])  # type: ignore[misc]
        add(reward.name, "greedy", lambda c, k=k: c.rewards[k][1])  # type: ignore[misc]
    return found


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


async def _run(engine: Engine, job: Job, progress: Any) -> Output:
    output = await engine.run(job)
    progress.update()
    return output
