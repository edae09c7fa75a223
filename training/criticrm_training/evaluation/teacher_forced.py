"""Rewards after critiques that another model wrote: how far a Critic-RM depends on writing its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel

from ..critiques.records import SIDES, SideName, by_response, critique_tokens, read_critiques
from ..data.pairs import PreferencePair, pairs_sha256
from ..data.sources import DataError
from ..parts import in_chunks, read_parts, read_run, run_digest, write_in_parts
from ..stats import Floats
from .scoring import truncation

_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("side", pa.string()),
        ("score", pa.float64()),
        ("truncated", pa.bool_()),  # the prompt or the response, to the model's length
    ]
)
_PAIRS_PER_PART = 32


def teacher_forced_margins(
    folder: Path, pairs: Sequence[PreferencePair], critiques: Path, *, out: Path, run: dict[str, Any]
) -> tuple[Floats, dict[str, Any]]:
    """Mean reward after a response's critiques, chosen minus rejected, `[pairs]` float64; NaN for pairs without.

    And what was cut to the model's length (`scoring.truncation`). Read by transformers, at the one reward position, in
    parts under `out`. A critique that was cut at its writer's limit has no end-of-turn token, as where the service cuts
    one.

    Args:
        folder: of the Critic-RM.
        critiques: a finished `critiques sample` of these pairs; what a filter kept tells the labels
            (`keeps_by_label`).
        run: what identifies the model and the pairs.

    Raises:
        CheckpointError, DataError, NonFiniteReward, PartsError
    """
    checkpoint = Checkpoint.open(folder)
    renderer, longest = checkpoint.renderer, checkpoint.manifest.max_critique_tokens
    groups = by_response(read_critiques(critiques))
    members = [pair for pair in pairs if all((pair.id, side) in groups for side in SIDES)]
    if not members:
        raise DataError(f"{critiques} has critiques of none of these {len(pairs)} pairs: is it of other data?")

    @cache
    def reference() -> ReferenceModel:  # no model where there is nothing left to do
        return ReferenceModel.load(folder, checkpoint.manifest.reward_tokens, renderer.stop_token_ids)

    def score(pair: PreferencePair, side: SideName) -> dict[str, Any]:
        prompt = renderer.open(pair.prompt).render(
            getattr(pair, side), max_model_len=checkpoint.max_model_len, max_critique_tokens=longest, truncate=True
        )
        rewards = [
            reference().score(prompt.token_ids, critique_tokens(renderer, c, longest))[1] for c in groups[pair.id, side]
        ]
        mean = sum(rewards) / len(rewards)
        return {"pair_id": pair.id, "side": side, "score": mean, "truncated": prompt.truncated}

    def work(chunk: Sequence[PreferencePair]) -> list[dict[str, Any]]:
        return [score(pair, side) for pair in chunk for side in SIDES]

    run = run | {"critiques": run_digest(critiques)}
    write_in_parts(out, run, in_chunks(members, _PAIRS_PER_PART), work, _SCHEMA, "teacher-forced")
    rows = read_parts(out)
    scores = {(row["pair_id"], row["side"]): row["score"] for row in rows}
    sides = np.array([[scores.get((pair.id, side), np.nan) for side in SIDES] for pair in pairs], dtype=np.float64)
    margins: Floats = sides[:, 0] - sides[:, 1]
    return margins, truncation(rows)


def written_about(critiques: Path, pairs: Sequence[PreferencePair]) -> bool:
    """Whether the first of `pairs`, or all of them, are what these critiques were sampled of, where that is known.

    Else they are matched by their ids alone, which are numbers of rows unless a file has its own.

    Raises:
        PartsError: there is no run.
    """
    digest = read_run(critiques).get("pairs")
    count = len({critique.pair_id for critique in read_critiques(critiques)})
    return digest is None or pairs_sha256(pairs[:count]) == digest


def keeps_by_label(critiques: Path) -> bool:
    """Whether these are critiques that were kept where they agree with the labels. Raises PartsError."""
    run = read_run(critiques)
    return "critiques" in run and not run.get("ignore_labels", False)
