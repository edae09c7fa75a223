"""The responses to each prompt, scored by the service: before a critique, after a greedy one, after sampled ones."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..critiques.sample import task_seed
from ..endpoint import Endpoint, EndpointError
from ..parts import in_chunks, read_parts, stream_in_parts
from ..stats import Floats
from .items import EvaluationItem

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("index", pa.int32()),  # of the response in its item
        ("direct_score", pa.float64()),
        ("greedy_score", pa.float64()),
        ("greedy_critique", pa.string()),
        ("ended", pa.bool_()),  # the greedy critique, by itself; without one, this and its neighbours are null
        ("critique_tokens", pa.int32()),  # of the greedy critique
        ("greedy_trace", pa.list_(pa.float64())),  # the score before each of its tokens, where it was requested
        ("sampled_scores", pa.list_(pa.float64())),
        ("sampled_tokens", pa.list_(pa.int32())),
        ("sampled_critiques", pa.list_(pa.string())),
        ("truncated", pa.bool_()),  # the prompt or the response, to the model's length
        ("warnings", pa.list_(pa.string())),  # of the service
    ]
)
_ITEMS_PER_PART = 32
DIRECT, GREEDY = "direct_score", "greedy critique"


def score_items(
    items: Sequence[EvaluationItem],
    service: Endpoint,
    *,
    samples: int,
    out: Path,
    run: dict[str, Any],
    critiques: bool = True,
    trace: bool = False,
    unit: str = "prompt",
) -> list[dict[str, Any]]:
    """Score every item in parts under `out`, and return the rows, one a response.

    Greedy and sampled critiques are requested together, and the requests of the next parts while those of this one
    end: the service always has as many as its `concurrency` allows.

    Args:
        samples: critiques sampled a response, beside the greedy one; 0 leaves them out.
        run: what identifies the model and the items.
        critiques: without them there is the direct score alone, and no samples.
        trace: keep the score at every token of the greedy critiques.
        unit: what the progress bar calls an item.

    Raises:
        EndpointError, PartsError
    """

    def bodies(item: EvaluationItem) -> list[dict[str, Any]]:
        options = {"n": samples, "temperature": 0.7, "seed": task_seed("evaluate", item.id)}
        greedy = {"trace": True} if trace and critiques else critiques
        return [request_body(item, greedy), *([request_body(item, options)] if samples else [])]

    def work(chunks: Sequence[Sequence[EvaluationItem]]) -> Iterator[list[dict[str, Any]]]:
        wave = ((item, body) for chunk in chunks for item in chunk for body in bodies(item))
        with closing(answers_in_order(service, wave)) as answers:
            for chunk in chunks:
                rows: list[dict[str, Any]] = []
                for item in chunk:
                    greedy = _results(item, next(answers), int(critiques))
                    sampled = _results(item, next(answers), samples) if samples else [None] * len(greedy)
                    rows += [_row(item, k, *both) for k, both in enumerate(zip(greedy, sampled, strict=True))]
                yield rows

    described = run | {"samples": samples, "columns": SCHEMA.names}
    if not critiques:
        described["critiques"] = False
    if trace:
        described["trace"] = True
    stream_in_parts(out, described, in_chunks(items, _ITEMS_PER_PART), work, SCHEMA, "score", unit)
    return read_parts(out)


def method_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """Scores by method, each `[responses]` float64: direct; after the greedy critique, where critiques were written.

    Args:
        rows: of `score_items`.
    """
    found = {DIRECT: np.array([row["direct_score"] for row in rows], dtype=np.float64)}
    if all(row["greedy_critique"] is not None for row in rows):
        found[GREEDY] = np.array([row["greedy_score"] for row in rows], dtype=np.float64)
    return found


def sampled_scores(rows: Sequence[Mapping[str, Any]]) -> Floats:
    """The scores after sampled critiques, `[responses, samples]` float64."""
    return np.array([row["sampled_scores"] for row in rows], dtype=np.float64).reshape(len(rows), -1)


def margins(scores: Floats) -> Floats:
    """Chosen minus rejected, `[pairs]`, of scores `[2 * pairs]` of items that are pairs."""
    found: Floats = scores[0::2] - scores[1::2]
    return found


def by_item(items: Sequence[EvaluationItem], scores: Sequence[Any] | Floats) -> list[list[Any]]:
    """What there is of each response, `[responses]`, as k an item."""
    ends = accumulate(len(item.responses) for item in items)
    flat = list(scores)
    return [flat[end - len(item.responses) : end] for item, end in zip(items, ends, strict=True)]


def truncation(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many responses were scored with their prompt or their text cut to the model's length."""
    cut = sum(row["truncated"] for row in rows)
    return {"responses": cut, "of": len(rows), "share": cut / len(rows)}


def describe_truncation(found: Mapping[str, Any]) -> str:
    """`truncation` as a line of a table."""
    return f"responses cut to the model's length: {found['responses']} of {found['of']} ({found['share']:.1%})"


def answers_in_order(
    service: Endpoint, wave: Iterable[tuple[EvaluationItem, dict[str, Any]]]
) -> Generator[Any, None, None]:
    """The service's answers, in order. Raises EndpointError, with the prompt of the request that failed."""
    asked: list[str] = []

    def bodies() -> Iterator[dict[str, Any]]:
        for item, body in wave:
            asked.append(item.id)
            yield body

    try:
        yield from service.post_each("/score", bodies())
    except EndpointError as error:
        raise EndpointError(f"prompt {asked[error.request]}: {error}", error.request) from error


def request_body(item: EvaluationItem, critique: Any) -> dict[str, Any]:
    """The body of `/score`. A text that is too long is cut, and counted (`truncation`)."""
    return {
        "prompt": list(item.prompt),
        "responses": list(item.responses),
        "critique": critique,
        "on_overflow": "truncate",
        **{name: text for name in ("criteria", "reference") if (text := getattr(item, name)) is not None},
    }


def _results(item: EvaluationItem, answer: Mapping[str, Any], critiques: int) -> list[dict[str, Any]]:
    """One a response. Raises EndpointError: one failed, or there are more or fewer than requested."""
    results: list[dict[str, Any]] = answer["results"]
    if len(results) != len(item.responses):
        raise EndpointError(f"prompt {item.id}: {len(results)} results for {len(item.responses)} responses")
    for number, result in enumerate(results, start=1):
        if result["error"]:
            raise EndpointError(f"prompt {item.id}, response {number}: {result['error']['message']}")
        if len(result["critiques"]) != critiques:
            found = f"{len(result['critiques'])} critiques where {critiques} were requested"
            raise EndpointError(f"prompt {item.id}, response {number}: {found}")
        for score in (result["direct_score"], *(critique["score"] for critique in result["critiques"])):
            if score is None or not math.isfinite(score):
                raise EndpointError(f"prompt {item.id}, response {number}: a score of {score}, which is no number")
    return results


def _row(item: EvaluationItem, index: int, greedy: dict[str, Any], sampled: dict[str, Any] | None) -> dict[str, Any]:
    critique = greedy["critiques"][0] if greedy["critiques"] else None
    samples = sampled["critiques"] if sampled else []
    return {
        "item_id": item.id,
        "index": index,
        "direct_score": greedy["direct_score"],
        "greedy_score": critique and critique["score"],
        "greedy_critique": critique and critique["text"],
        "ended": critique and critique["finish_reason"] == "stop",
        "critique_tokens": critique and critique["tokens"],
        "greedy_trace": critique and critique.get("trace") and critique["trace"]["scores"],
        "sampled_scores": [c["score"] for c in samples],
        "sampled_tokens": [c["tokens"] for c in samples],
        "sampled_critiques": [c["text"] for c in samples],
        "truncated": any(result["status"] == "truncated" for result in (greedy, sampled) if result),
        "warnings": greedy["warnings"],
    }
