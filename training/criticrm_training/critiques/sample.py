"""`criticrm critiques sample`: N critiques of every response, each with the score it ends in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.pairs import PreferencePair
from ..parts import in_chunks, write_in_parts
from .records import SCHEMA, SIDES, Critique, SideName, score_request, split_score
from .writers import Critic, Draft, Sampling, Task

# Pairs in a part: enough to keep an engine busy, few enough to lose to a crash.
_PAIRS_PER_PART = 64


def sample(
    pairs: Sequence[PreferencePair],
    critic: Critic,
    sampling: Sampling,
    *,
    instruction: str,
    out: Path,
    run: dict[str, Any],
    seed: int = 0,
) -> None:
    """Write the critiques of both responses of each pair to `out`, in parts.

    Args:
        instruction: the checkpoint's own; the request for a score line is added here, and taken off the text.
        run: what identifies this run besides the arguments given here.
        seed: each response draws from its own, whatever its neighbours.
    """

    asked = instruction + score_request(sampling.score_by)

    def work(chunk: Sequence[PreferencePair]) -> list[dict[str, Any]]:
        responses = [(pair, side) for pair in chunk for side in SIDES]
        tasks = [
            Task(pair.prompt, getattr(pair, side), asked, task_seed(seed, pair.id, side)) for pair, side in responses
        ]
        drafts = critic.write(tasks, sampling)
        return [
            as_critique(pair.id, side, i, draft).row()
            for (pair, side), written in zip(responses, drafts, strict=True)
            for i, draft in enumerate(written)
        ]

    described = run | {
        "model": critic.name,
        "instruction": instruction,
        "n": sampling.n,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "score_by": sampling.score_by,
        "seed": seed,
    }
    write_in_parts(out, described, in_chunks(pairs, _PAIRS_PER_PART), work, SCHEMA, "critiques")


def as_critique(pair_id: str, side: SideName, number: int, draft: Draft) -> Critique:
    """A draft without its score line, and the score read there unless the critic has given one."""
    text, written = split_score(draft.text)
    score = written if draft.score is None else draft.score
    return Critique(pair_id, side, number, text, score, draft.finish_reason, draft.tokens)


def task_seed(*parts: object) -> int:
    """Of these parts alone; below 2^31, which every engine takes."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def summary(critiques: Sequence[Critique]) -> list[tuple[str, str]]:
    """Rows of a table."""
    n = len(critiques)
    responses = len({(c.pair_id, c.side) for c in critiques})
    scored = sum(c.score is not None for c in critiques)
    ended = sum(c.finish_reason == "stop" for c in critiques)
    return [
        ("responses", f"{responses}"),
        ("critiques", f"{n}"),
        ("with a score that can be read", f"{scored} ({scored / n:.1%})"),
        ("ended by themselves", f"{ended} ({ended / n:.1%})"),
        ("tokens a critique", f"{sum(c.tokens for c in critiques) / n:.1f}"),
    ]
