"""The self-check: does this engine read the reward right? Every engine passes it before it gets requests.

A wrong readout is silent: a reward that is shifted, of the step before, or another sample's looks like any other. So an
engine scores a few fixed conversations, in the ways in which requests come, and is compared with the rewards that
transformers gave when the checkpoint was made, and with itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import stdev
from typing import TYPE_CHECKING, TypeVar

from criticrm_model import CheckpointError, Completion, NonFiniteReward

from .checks import COMPARED, Check, CheckName, SelfCheckFailed, table
from .engines.base import Engine, Facts, Job, Output
from .errors import EngineFailed

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

    from .settings import Settings

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
Run = Callable[[Job], Awaitable[Output]]
# `fake` has no model; `remote` checks each of its servers itself.
_NOT_CHECKED_HERE = ("fake", "remote")
_EXACT = 1e-3  # reward units, where engine and reference compute in float32
# In standard deviations of the score: what bfloat16 explains. Measured with the default: docs/self-check.md.
_TOLERANCE_TO_REFERENCE = 0.15
_TOLERANCE_TO_ITSELF = 0.10
_TOKENS = 16
_SEED = 20
_OTHER_BAN = -1e3
_BEYOND_A_STEP = 64  # tokens
_BATCH_SIZE = 3  # of the fixed conversations
_BEYOND_A_BLOCK = 16  # tokens


async def self_check(run: Run, facts: Facts, checkpoint: Checkpoint, max_model_len: int) -> list[Check]:
    """Check an engine; a healthy one passes in a few seconds on a CPU.

    Args:
        run: the engine's.
        max_model_len: in tokens.

    Returns:
        The checks, all passed.

    Raises:
        SelfCheckFailed: with all checks.
        EngineDead
        NoServer
    """
    routine = _Routine(run, facts, checkpoint)
    try:
        await routine.run_all(max_model_len)
    except (EngineFailed, NonFiniteReward, CheckpointError) as error:
        raise SelfCheckFailed(routine.checks, [*routine.faults, f"{routine.doing}: {error}"]) from error
    if routine.faults:
        raise SelfCheckFailed(routine.checks, routine.faults)
    return routine.checks


async def check_engine(engine: Engine, checkpoint: Checkpoint, settings: Settings) -> list[Check]:
    """The self-check as the settings want it, logged; no checks where it does not apply.

    Raises:
        SelfCheckFailed: which is logged.
        EngineDead
    """
    if described := ", ".join(f"{name} {value}" for name, value in engine.facts.described.items()):
        logger.info("    %s", described)
    if settings.engine in _NOT_CHECKED_HERE:
        return []
    if settings.skip_self_check:
        logger.warning("    self-check skipped: rewards may be wrong without notice")
        return []
    began = time.monotonic()
    try:
        await _first_request(engine, checkpoint)
        logger.info("    first request in %.1f s", time.monotonic() - began)
        began = time.monotonic()
        checks = await self_check(engine.run, engine.facts, checkpoint, engine.max_model_len)
    except SelfCheckFailed as error:
        logger.critical("%s", error)
        raise
    if checkpoint.manifest.references is None:
        logger.warning(
            "    the checkpoint was made by an earlier version and has no reference rewards: export it again"
        )
    logger.info("    self-check passed in %.1f s\n  %s", time.monotonic() - began, "\n  ".join(table(checks)))
    return checks


async def _first_request(engine: Engine, checkpoint: Checkpoint) -> None:
    """One reward that is not used: with its first request vLLM compiles parts of its sampler."""
    from criticrm_model.references import fixed_prompts

    job = Job(fixed_prompts(checkpoint.renderer)[0], n=1, max_tokens=1, temperature=0.0, seed=None, ban=None)
    with suppress(EngineFailed, NonFiniteReward):  # the checks report by name what is wrong
        await engine.run(job)


class _Routine:
    def __init__(self, run: Run, facts: Facts, checkpoint: Checkpoint) -> None:
        from criticrm_model.references import fixed_prompts

        self.checks: list[Check] = []
        self.doing: CheckName = "references"
        self._run = run
        self._manifest = checkpoint.manifest
        self._facts = facts
        self._renderer = checkpoint.renderer
        self._prompts = fixed_prompts(self._renderer)

    @property
    def faults(self) -> list[str]:
        return [check.fault for check in self.checks if not check.passed]

    async def run_all(self, max_model_len: int) -> None:
        self._check_template()
        self.doing = "references"
        one_by_one = [await self._read(ids) for ids in self._prompts]
        alone = [completion.direct_score for completion in one_by_one]
        long = self._prompt_of(self._facts.cache_block + _BEYOND_A_BLOCK)
        given = self._given_critiques()
        self.doing = "together"
        batch, written = await asyncio.gather(
            self._together([*self._prompts[:_BATCH_SIZE], long, *(ids for ids, _ in given)]), self._write_critiques()
        )
        in_batch, long_once, after_given = batch[:_BATCH_SIZE], batch[_BATCH_SIZE], batch[_BATCH_SIZE + 1 :]
        self._compare_with_references(alone, after_given, [score for _, score in given])
        self._compare_each(one_by_one)
        self._compare("together", in_batch, alone[:_BATCH_SIZE])
        self.doing = "cached"
        long_again, first_again, *prefilled = await self._together(
            [long, self._prompts[0], *(prefix for prefix, _ in written)]
        )
        self._compare("cached", [long_again, first_again], [long_once, alone[0]])
        self._compare_critiques([completion for _, completion in written], prefilled, alone)
        length = (self._facts.step_tokens or max_model_len) + _BEYOND_A_STEP
        if length + _TOKENS <= max_model_len:
            await self._check_chunked(length)
        if self._facts.float32_head and not self._facts.exact:
            logits = [before for completion in one_by_one for before, _ in completion.logits]
            self._add("head", [], [], passed=not all(map(fits_bfloat16, logits)))

    def _check_template(self) -> None:
        from criticrm_model.references import template_sha256

        if (references := self._manifest.references) is not None:
            same = template_sha256(self._renderer) == references.template_sha256
            self._add("template", [], [], passed=same)

    def _given_critiques(self) -> list[tuple[list[int], float]]:
        """Prompts that end where the reward after a critique of the manifest is read, and that reward."""
        references = self._manifest.references
        return [
            ([*self._prompts[c.conversation], *c.token_ids[:-1]], c.score)
            for c in (references.critiques if references else ())
        ]

    def _compare_with_references(
        self, alone: Sequence[float], given: Sequence[float], expected: Sequence[float]
    ) -> None:
        references = self._manifest.references
        if references is None or self.faults:  # of other token ids they say nothing
            return
        exact = self._facts.exact and references.dtype == "float32"
        expected = [*references.direct_scores, *expected]
        self._compare("references", [*alone, *given], expected, apart=_TOLERANCE_TO_REFERENCE, exact=exact)

    def _compare_each(self, read: Sequence[Completion]) -> None:
        """Each of several rewards, whose errors could cancel each other out in the score, or weigh nothing in it."""
        references = self._manifest.references
        if references is None or not references.direct_rewards or self.faults:
            return
        served: list[float] = []
        expected: list[float] = []
        for k, column in enumerate(zip(*references.direct_rewards, strict=True)):
            std = stdev(column) or 1.0
            served += [completion.rewards[k][0] / std for completion in read]
            expected += [reward / std for reward in column]
        exact = self._facts.exact and references.dtype == "float32"
        self._add("rewards", served, expected, limit=_EXACT if exact else _TOLERANCE_TO_REFERENCE)

    async def _write_critiques(self) -> list[tuple[list[int], Completion]]:
        """One greedy critique and two sampled ones, each with the tokens before the position where its reward is."""
        greedy = Job(self._prompts[0], n=1, max_tokens=_TOKENS, temperature=0.0, seed=None)
        sampled = replace(greedy, token_ids=self._prompts[1], n=2, temperature=1.0, seed=_SEED, ban=_OTHER_BAN)
        outputs = await _gather([self._run(greedy), self._run(sampled)])
        written = [(job, c) for job, output in zip((greedy, sampled), outputs, strict=True) for c in output.completions]
        return [([*job.token_ids, *c.token_ids[:-1]], c) for job, c in written]

    def _compare_critiques(
        self, critiques: Sequence[Completion], again: Sequence[float], alone: Sequence[float]
    ) -> None:
        """The last step of a decode with the last position of a prefill; the first step with no ban."""
        scores = [c.score for c in critiques]
        self._compare("decode", scores[:1], again[:1])
        self._compare("samples", scores[1:], again[1:])
        self._compare("ban", [c.direct_score for c in critiques], [alone[0], alone[1], alone[1]])

    def _prompt_of(self, length: int) -> list[int]:
        """`[length]` token ids, of all fixed conversations one after the other."""
        together = [token_id for ids in self._prompts for token_id in ids]
        return (together * (length // len(together) + 1))[:length]

    async def _check_chunked(self, length: int) -> None:
        self.doing = "chunked"
        long = self._prompt_of(length)
        output = await self._run(Job(long, n=1, max_tokens=4, temperature=0.0, seed=None))
        (critique,) = output.completions
        again = [await self._direct(long), await self._direct([*long, *critique.token_ids[:-1]])]
        self._compare("chunked", [critique.direct_score, critique.score], again)

    async def _direct(self, token_ids: list[int]) -> float:
        return (await self._read(token_ids)).direct_score

    async def _read(self, token_ids: list[int]) -> Completion:
        job = Job(token_ids, n=1, max_tokens=1, temperature=0.0, seed=None, ban=None)
        return (await self._run(job)).completions[0]

    async def _together(self, prompts: Sequence[list[int]]) -> list[float]:
        return await _gather(map(self._direct, prompts))

    def _compare(
        self,
        name: CheckName,
        rewards: Sequence[float],
        expected: Sequence[float],
        *,
        apart: float = _TOLERANCE_TO_ITSELF,
        exact: bool | None = None,
    ) -> None:
        calibration, std = self._manifest.calibration, self._manifest.direct_std
        if calibration and name in ("decode", "samples"):
            std = calibration.score.std
        exact = self._facts.exact if exact is None else exact
        limit = _EXACT if exact else apart * std
        self._add(name, rewards, expected, limit=limit)

    def _add(
        self,
        name: CheckName,
        rewards: Sequence[float],
        expected: Sequence[float],
        *,
        limit: float = 0.0,
        passed: bool = True,
    ) -> None:
        differences = [a - b for a, b in zip(rewards, expected, strict=True)]
        rms = math.hypot(*differences) / math.sqrt(len(differences)) if differences else 0.0
        self.checks.append(
            Check(
                name=name,
                compares=COMPARED[name][0],
                n=len(differences),
                rms=rms,
                largest=max(map(abs, differences), default=0.0),
                limit=limit,
                passed=passed and rms <= limit,
            )
        )


async def _gather(running: Iterable[Awaitable[_T]]) -> list[_T]:
    """All results; when one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in running]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def fits_bfloat16(value: float) -> bool:
    """Whether the lower half of its float32 is not used."""
    return struct.pack("<f", value)[:2] == b"\0\0"
