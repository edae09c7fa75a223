"""Rewards after critiques that another model wrote: how far a Critic-RM depends on writing its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel

from ..critiques.records import SIDES, by_response, read_critiques
from ..data.pairs import PreferencePair
from ..data.sources import DataError
from ..parts import in_chunks, read_parts, run_digest, write_in_parts
from ..stats import Floats

_SCHEMA = pa.schema([("pair_id", pa.string()), ("side", pa.string()), ("score", pa.float64())])
_PAIRS_PER_PART = 32


def teacher_forced_margins(
    folder: Path, pairs: Sequence[PreferencePair], critiques: Path, *, out: Path, run: dict[str, Any]
) -> Floats:
    """Mean reward after a response's critiques, chosen minus rejected, `[pairs]` float64; NaN for pairs without.

    Read by transformers, at the one reward position, in parts under `out`.

    Args:
        folder: of the Critic-RM.
        critiques: a finished `critiques sample` (or filter, or refine) of these pairs.
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
    reference = ReferenceModel.load(folder, checkpoint.manifest.reward_token_id, renderer.stop_token_ids)

    def score(pair: PreferencePair, side: Any) -> float:
        prompt = renderer.open(pair.prompt).render(
            getattr(pair, side), max_model_len=checkpoint.max_model_len, max_critique_tokens=longest, truncate=True
        )
        forced = [renderer.tokenize_critique(c.text)[:longest] for c in groups[pair.id, side]]
        return sum(reference.score(prompt.token_ids, ids)[1] for ids in forced) / len(forced)

    def work(chunk: Sequence[PreferencePair]) -> list[dict[str, Any]]:
        return [{"pair_id": pair.id, "side": side, "score": score(pair, side)} for pair in chunk for side in SIDES]

    run = run | {"critiques": run_digest(critiques)}
    write_in_parts(out, run, in_chunks(members, _PAIRS_PER_PART), work, _SCHEMA, "teacher-forced")
    scores = {(row["pair_id"], row["side"]): row["score"] for row in read_parts(out)}
    missing = float("nan")
    sides = [[scores.get((pair.id, side), missing) for side in SIDES] for pair in pairs]
    return np.array([chosen - rejected for chosen, rejected in sides], dtype=np.float64)
