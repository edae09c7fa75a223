"""`criticrm critiques sample`: N critiques of every response, each with the score it ends in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from criticrm_model.instruction import InstructionSlots

from ..data.judged_by import judged_by
from ..data.pairs import PreferencePair
from ..parts import in_chunks, stream_in_parts
from .critique_task import CritiqueTask, TaskError, Tasks
from .records import SCHEMA, SIDES, Critique, SideName
from .scores import ScoreBy, score_request, split_score
from .verdict import VerdictRule
from .verdict import verdict as read_verdict
from .writers import Critic, Draft, Request, Sampling, WritingTask, drafts_in_order

# Pairs in a part: enough to keep an engine busy, few enough to lose to a crash.
_PAIRS_PER_PART = 64


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """How critiques are sampled.

    Attributes:
        n: critiques a response.
        max_tokens: of each; None: as many as its task allows.
        score_by: None: by the verdict where the task has a rule for it, else by the number that is written.
        seed: each response draws from its own, whatever its neighbours.
        slots: columns that the writer reads behind the instruction, and how.
    """

    n: int
    temperature: float
    max_tokens: int | None = None
    score_by: ScoreBy | None = None
    seed: int = 0
    slots: InstructionSlots = InstructionSlots()  # noqa: RUF009 - frozen

    def sampling(self, task: CritiqueTask) -> Sampling:
        """Raises TaskError: the task has no rule for the verdict that is wanted."""
        score_by = self.score_by or ("verdict" if task.verdict else "written")
        if score_by == "verdict" and not task.verdict:
            raise TaskError(
                "a critique can't be scored by its verdict: its task has no rule for that (field 'verdict')"
            )
        return Sampling(self.n, self.temperature, self.max_tokens or task.max_tokens, score_by)


def sample(
    pairs: Sequence[PreferencePair],
    critic: Critic,
    tasks: Tasks,
    settings: SampleSettings,
    *,
    out: Path,
    run: dict[str, Any],
) -> None:
    """Write the critiques of both responses of each pair to `out`, in parts.

    Args:
        tasks: a request for a score line is added to their instructions here, and taken off the text.
        run: what identifies this run besides the arguments given here.

    Raises:
        TaskError: there is no task for a pair's category.
    """
    by_category = {pair.category: tasks.of(pair.category) for pair in pairs}
    samplings = {category: settings.sampling(task) for category, task in by_category.items()}

    def requests(chunk: Sequence[PreferencePair]) -> list[Request]:
        return [
            Request(_make_task(pair, side, by_category[pair.category], settings), samplings[pair.category])
            for pair in chunk
            for side in SIDES
        ]

    def rows(chunk: Sequence[PreferencePair], drafts: Sequence[Sequence[Draft]]) -> list[dict[str, Any]]:
        responses = [(pair, side) for pair in chunk for side in SIDES]
        return [
            as_critique(
                pair, side, i, draft, samplings[pair.category].score_by, by_category[pair.category].verdict
            ).row()
            for (pair, side), written in zip(responses, drafts, strict=True)
            for i, draft in enumerate(written)
        ]

    def work(chunks: Sequence[Sequence[PreferencePair]]) -> Iterator[list[dict[str, Any]]]:
        return map(rows, chunks, drafts_in_order(critic, map(requests, chunks)))

    chunks = in_chunks(pairs, _PAIRS_PER_PART)
    stream_in_parts(out, described(run, critic, tasks, settings), chunks, work, SCHEMA, "critiques")


def described(run: dict[str, Any], critic: Critic, tasks: Tasks, settings: SampleSettings) -> dict[str, Any]:
    """What a run is identified by."""
    said = asdict(settings) | {"slots": settings.slots.model_dump()}
    if not settings.slots.trained:
        del said["slots"]
    return run | {"model": critic.name, "tasks": tasks.described(), **said}


def asked(pair: PreferencePair, instruction: str, settings: SampleSettings) -> str:
    """The instruction, with what of the pair is to be judged by."""
    return settings.slots.fill(instruction, *judged_by(pair, settings.slots))


def _make_task(pair: PreferencePair, side: SideName, task: CritiqueTask, settings: SampleSettings) -> WritingTask:
    return WritingTask(
        pair.prompt,
        pair.response(side),
        asked(pair, task.instruction, settings) + score_request(settings.sampling(task).score_by),
        task_seed(settings.seed, pair.id, side),
        label=f"pair {pair.id!r}, {side}",
    )


def as_critique(
    pair: PreferencePair, side: SideName, number: int, draft: Draft, score_by: ScoreBy, rule: VerdictRule | None
) -> Critique:
    """A draft as a row: without its score line if it was asked for one, its score, and its verdict by the rule."""
    text, score = draft.text.strip(), draft.score
    if score_by in ("written", "expected"):
        text, written = split_score(draft.text)
        score = written if score_by == "written" else score
    said = read_verdict(text, pair.response(side), rule) if rule else None
    if score_by == "verdict":
        score = None if said is None else float(said)
    return Critique(pair.id, side, number, text, score, draft.finish_reason, draft.tokens, said, draft.truncated)


def task_seed(*parts: object) -> int:
    """A seed that depends on these parts alone; below 2^31, which every engine takes."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
