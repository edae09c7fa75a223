"""Both responses of each pair, scored by the service: before a critique, after a greedy one, after sampled ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from ..critiques.records import SIDES
from ..critiques.sample import task_seed
from ..data import PreferencePair
from ..endpoint import Endpoint, EndpointError
from ..parts import in_chunks, read_parts, write_in_parts

SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("side", pa.string()),
        ("direct_score", pa.float64()),
        ("greedy_score", pa.float64()),
        ("greedy_critique", pa.string()),
        ("ended", pa.bool_()),  # the greedy critique, by itself
        ("sampled_scores", pa.list_(pa.float64())),
        ("sampled_critiques", pa.list_(pa.string())),
    ]
)
_PAIRS_PER_PART = 32


def score_pairs(
    pairs: Sequence[PreferencePair], service: Endpoint, *, samples: int, out: Path, run: dict[str, Any]
) -> list[dict[str, Any]]:
    """Score every pair in parts under `out`, and return the rows, two a pair.

    Args:
        samples: critiques sampled a response, beside the greedy one; 0 leaves them out.
        run: what identifies the model and the pairs.

    Raises:
        EndpointError, PartsError
    """

    def work(chunk: Sequence[PreferencePair]) -> list[dict[str, Any]]:
        greedy = service.post_all("/score", [_body(pair, True) for pair in chunk])
        sampled = [None] * len(chunk)
        if samples:
            options = [{"n": samples, "temperature": 0.7, "seed": task_seed("evaluate", pair.id)} for pair in chunk]
            sampled = service.post_all("/score", [_body(p, o) for p, o in zip(chunk, options, strict=True)])
        return [
            _row(pair, side, g["results"][k], s["results"][k] if s else None)
            for pair, g, s in zip(chunk, greedy, sampled, strict=True)
            for k, side in enumerate(SIDES)
        ]

    write_in_parts(out, run | {"samples": samples}, in_chunks(pairs, _PAIRS_PER_PART), work, SCHEMA, "score")
    return read_parts(out)


def margins(rows: Sequence[dict[str, Any]], counts: Sequence[int]) -> dict[str, torch.Tensor]:
    """Chosen minus rejected by method, each `[pairs]`: direct, after the greedy critique, and the mean of m sampled.

    Args:
        rows: of `score_pairs`.
        counts: the values of m; no more than were sampled.
    """
    chosen, rejected = rows[0::2], rows[1::2]

    def difference(values: Any) -> torch.Tensor:
        return torch.tensor([values(a) - values(b) for a, b in zip(chosen, rejected, strict=True)])

    found = {
        "direct_score": difference(lambda row: row["direct_score"]),
        "greedy critique": difference(lambda row: row["greedy_score"]),
    }
    for m in counts:
        found[f"mean of {m}"] = difference(lambda row, m=m: sum(row["sampled_scores"][:m]) / m)
    return found


def _body(pair: PreferencePair, critique: Any) -> dict[str, Any]:
    responses = [getattr(pair, side) for side in SIDES]
    return {"prompt": list(pair.prompt), "responses": responses, "critique": critique, "on_overflow": "truncate"}


def _row(pair: PreferencePair, side: str, greedy: dict[str, Any], sampled: dict[str, Any] | None) -> dict[str, Any]:
    for result in (greedy, sampled):
        if result and result["error"]:
            raise EndpointError(f"pair {pair.id}, {side}: {result['error']['message']}")
    (critique,) = greedy["critiques"]
    samples = sampled["critiques"] if sampled else []
    return {
        "pair_id": pair.id,
        "side": side,
        "direct_score": greedy["direct_score"],
        "greedy_score": greedy["score"],
        "greedy_critique": critique["text"],
        "ended": critique["finish_reason"] == "stop",
        "sampled_scores": [c["score"] for c in samples],
        "sampled_critiques": [c["text"] for c in samples],
    }
