"""The responses to each prompt, scored by the service: before a critique, after a greedy one, after sampled ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from ..critiques.sample import task_seed
from ..endpoint import Endpoint, EndpointError
from ..parts import in_chunks, read_parts, write_in_parts
from .items import Item

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("index", pa.int32()),  # of the response in its item
        ("direct_score", pa.float64()),
        ("greedy_score", pa.float64()),
        ("greedy_critique", pa.string()),
        ("ended", pa.bool_()),  # the greedy critique, by itself; without one, this and the two above are null
        ("sampled_scores", pa.list_(pa.float64())),
        ("sampled_critiques", pa.list_(pa.string())),
        ("truncated", pa.bool_()),  # the prompt or the response, to the model's length
        ("warnings", pa.list_(pa.string())),  # of the service
    ]
)
_ITEMS_PER_PART = 32


def score_items(
    items: Sequence[Item],
    service: Endpoint,
    *,
    samples: int,
    out: Path,
    run: dict[str, Any],
    critiques: bool = True,
    unit: str = "prompt",
) -> list[dict[str, Any]]:
    """Score every item in parts under `out`, and return the rows, one a response.

    Args:
        samples: critiques sampled a response, beside the greedy one; 0 leaves them out.
        run: what identifies the model and the items.
        critiques: without them there is the direct score alone, and no samples.
        unit: what the progress bar calls an item.

    Raises:
        EndpointError, PartsError
    """

    def work(chunk: Sequence[Item]) -> list[dict[str, Any]]:
        greedy = service.post_all("/score", [_body(item, critiques) for item in chunk])
        sampled = [None] * len(chunk)
        if samples:
            options = [{"n": samples, "temperature": 0.7, "seed": task_seed("evaluate", item.id)} for item in chunk]
            sampled = service.post_all("/score", [_body(i, o) for i, o in zip(chunk, options, strict=True)])
        return [
            _row(item, k, g["results"][k], s["results"][k] if s else None)
            for item, g, s in zip(chunk, greedy, sampled, strict=True)
            for k in range(len(item.responses))
        ]

    described = run | {"samples": samples, "columns": SCHEMA.names}
    if not critiques:
        described["critiques"] = False
    write_in_parts(out, described, in_chunks(items, _ITEMS_PER_PART), work, SCHEMA, "score", unit)
    return read_parts(out)


def method_scores(rows: Sequence[dict[str, Any]], counts: Sequence[int]) -> dict[str, torch.Tensor]:
    """Scores by method, each `[responses]` float64: direct; after the greedy critique, and the mean of m sampled, where
    critiques were written.

    Args:
        rows: of `score_items`.
        counts: the values of m; no more than were sampled.
    """
    found = {"direct_score": [row["direct_score"] for row in rows]}
    if all(row["greedy_critique"] is not None for row in rows):
        found["greedy critique"] = [row["greedy_score"] for row in rows]
    for m in counts:
        found[f"mean of {m}"] = [sum(row["sampled_scores"][:m]) / m for row in rows]
    return {name: torch.tensor(scores, dtype=torch.float64) for name, scores in found.items()}


def margins(scores: torch.Tensor) -> torch.Tensor:
    """Chosen minus rejected, `[pairs]`, of scores `[2 * pairs]` of items that are pairs."""
    return scores[0::2] - scores[1::2]


def by_item(items: Sequence[Item], scores: torch.Tensor) -> list[list[float]]:
    """Scores `[responses]` as k numbers an item."""
    ends = accumulate(len(item.responses) for item in items)
    flat = scores.tolist()
    return [flat[end - len(item.responses) : end] for item, end in zip(items, ends, strict=True)]


def _body(item: Item, critique: Any) -> dict[str, Any]:
    return {
        "prompt": list(item.prompt),
        "responses": list(item.responses),
        "critique": critique,
        "on_overflow": "truncate",
    }


def _row(item: Item, index: int, greedy: dict[str, Any], sampled: dict[str, Any] | None) -> dict[str, Any]:
    for result in (greedy, sampled):
        if result and result["error"]:
            raise EndpointError(f"prompt {item.id}, response {index + 1}: {result['error']['message']}")
    critique = greedy["critiques"][0] if greedy["critiques"] else None
    samples = sampled["critiques"] if sampled else []
    return {
        "item_id": item.id,
        "index": index,
        "direct_score": greedy["direct_score"],
        "greedy_score": critique and critique["score"],
        "greedy_critique": critique and critique["text"],
        "ended": critique and critique["finish_reason"] == "stop",
        "sampled_scores": [c["score"] for c in samples],
        "sampled_critiques": [c["text"] for c in samples],
        "truncated": greedy["status"] == "truncated",
        "warnings": greedy["warnings"],
    }
