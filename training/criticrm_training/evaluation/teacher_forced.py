"""Rewards after critiques that another model wrote: how far a Critic-RM depends on writing its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel

from ..critiques.records import SIDES, Critique, SideName, by_response, critique_tokens, read_critiques
from ..data.pairs import PreferencePair, pairs_sha256
from ..data.sources import DataError
from ..endpoint import Endpoint, EndpointError
from ..parts import in_chunks, read_parts, read_run, run_digest, stream_in_parts
from ..stats import Floats
from .items import EvaluationItem
from .scoring import answers_in_order, request_body, truncation

_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("side", pa.string()),
        ("score", pa.float64()),
        ("truncated", pa.bool_()),  # the prompt or the response, to the model's length
    ]
)
_PAIRS_PER_PART = 32
_CRITIQUES_A_REQUEST = 16  # what a service allows by default


@dataclass(frozen=True, slots=True)
class Supplied:
    """Critiques of one response, to read the rewards after."""

    item: EvaluationItem
    response: str
    critiques: Sequence[Critique]


@dataclass(frozen=True, slots=True)
class Read:
    """The rewards, `[critiques]`, and whether the prompt or the response was cut to the model's length."""

    scores: list[float]
    truncated: bool


Reader = Callable[[Iterator[Supplied]], Generator[Read, None, None]]  # in order


def read_by(service: Endpoint) -> Reader:
    """The reader that is a service; it raises EndpointError."""

    def read(supplied: Iterator[Supplied]) -> Generator[Read, None, None]:
        wave = ((one.item, _supplied_body(one)) for one in supplied)
        with closing(answers_in_order(service, wave)) as answers:
            for answer in answers:
                (result,) = answer["results"]
                if result["error"]:
                    raise EndpointError(f"a response with its critiques: {result['error']['message']}")
                yield Read([critique["score"] for critique in result["critiques"]], result["status"] == "truncated")

    return read


def read_by_transformers(folder: Path) -> Reader:
    """The reader that is a Critic-RM's folder, read by transformers, one at a time: on machines without vLLM."""

    def read(supplied: Iterator[Supplied]) -> Generator[Read, None, None]:
        checkpoint = Checkpoint.open(folder)
        renderer, longest = checkpoint.renderer, checkpoint.manifest.max_critique_tokens
        reference = ReferenceModel.load(folder, checkpoint.manifest.reward_tokens, renderer.stop_token_ids)
        for one in supplied:
            prompt = (
                renderer.with_criteria(one.item.criteria, one.item.reference)
                .open(one.item.prompt)
                .render(
                    one.response, max_model_len=checkpoint.max_model_len, max_critique_tokens=longest, truncate=True
                )
            )
            tokens = (critique_tokens(renderer, critique, longest) for critique in one.critiques)
            yield Read([reference.score(prompt.token_ids, ids)[1] for ids in tokens], prompt.truncated)

    return read


def teacher_forced_margins(
    reader: Reader, items: Sequence[EvaluationItem], critiques: Path, *, out: Path, run: dict[str, Any]
) -> tuple[Floats, dict[str, Any]]:
    """Mean reward after a response's critiques, chosen minus rejected, `[pairs]` float64; NaN for pairs without.

    And what was cut to the model's length (`scoring.truncation`). In parts under `out`. After a critique that was cut
    at its writer's limit the reward is read where the service cuts one.

    Args:
        items: the pairs.
        critiques: a finished `critiques sample` of these pairs; what a filter kept tells the labels
            (`keeps_by_label`).
        run: what identifies the model and the pairs.

    Raises:
        DataError, PartsError
        What the reader does.
    """
    groups = by_response(read_critiques(critiques))
    members = [item for item in items if all((item.id, side) in groups for side in SIDES)]
    if not members:
        raise DataError(f"{critiques} has critiques of none of these {len(items)} pairs: is it of other data?")

    def of_side(item: EvaluationItem, side: SideName) -> list[Supplied]:
        several, response = groups[item.id, side], item.responses[SIDES.index(side)]
        starts = range(0, len(several), _CRITIQUES_A_REQUEST)
        return [Supplied(item, response, several[start : start + _CRITIQUES_A_REQUEST]) for start in starts]

    def work(chunks: Sequence[Sequence[EvaluationItem]]) -> Iterator[list[dict[str, Any]]]:
        wave = (one for chunk in chunks for item in chunk for side in SIDES for one in of_side(item, side))
        with closing(reader(wave)) as found:
            for chunk in chunks:
                yield [_row(item, side, [next(found) for _ in of_side(item, side)]) for item in chunk for side in SIDES]

    run = run | {"critiques": run_digest(critiques)}
    stream_in_parts(out, run, in_chunks(members, _PAIRS_PER_PART), work, _SCHEMA, "teacher-forced", "pair")
    rows = read_parts(out)
    scores = {(row["pair_id"], row["side"]): row["score"] for row in rows}
    sides = np.array([[scores.get((item.id, side), np.nan) for side in SIDES] for item in items], dtype=np.float64)
    margins: Floats = sides[:, 0] - sides[:, 1]
    return margins, truncation(rows)


def _row(item: EvaluationItem, side: SideName, found: Sequence[Read]) -> dict[str, Any]:
    scores = [score for read in found for score in read.scores]
    truncated = any(read.truncated for read in found)
    return {"pair_id": item.id, "side": side, "score": fmean(scores), "truncated": truncated}


def _supplied_body(one: Supplied) -> dict[str, Any]:
    critiques = [{"text": c.text, "finish_reason": c.finish_reason} for c in one.critiques]
    return request_body(one.item, None) | {"responses": [one.response], "critiques": [critiques]}


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
