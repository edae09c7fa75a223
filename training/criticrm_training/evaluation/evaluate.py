"""`criticrm evaluate`: pair accuracy of a Critic-RM with critiques it writes now, beside what it must beat."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..accuracy import paired_difference
from ..data import PreferencePair, content_sha256
from ..sources import DataError
from ..tables import accuracy_report, as_table
from .items import as_item
from .quality import critique_quality
from .scoring import margins, method_scores, score_items
from .serving import scoring_service

logger = logging.getLogger(__name__)

RESULTS = "evaluation.json"
MARGINS = "margins.parquet"


def evaluate(
    model: str,
    pairs: Sequence[PreferencePair],
    out: Path,
    *,
    url: str | None,
    key: str | None,
    concurrency: int,
    samples: Sequence[int],
    against: Mapping[str, Path],
) -> dict[str, Any]:
    """Score, report, and write `out/evaluation.json`; the scores stay in `out/scores`.

    Args:
        model: served for as long as it takes, unless `url` names a service that runs.
        samples: for each m, the mean over m sampled critiques is reported.
        against: finished evaluations of the same pairs, by name: each is compared with pair by pair.

    Raises:
        DataError: another evaluation holds other pairs.
        EndpointError, PartsError, ServingError
    """
    with scoring_service(model, url, key=key, concurrency=concurrency) as (service, about):
        run = {"model_version": about["model_version"], "pairs": content_sha256(pairs)}
        items = [as_item(pair) for pair in pairs]
        rows = score_items(items, service, samples=max(samples, default=0), out=out / "scores", run=run, unit="pair")

    found = {name: margins(scores) for name, scores in method_scores(rows, samples).items()}
    ended = [row["ended"] for row in rows]
    report = accuracy_report(pairs, found, sum(ended) / len(ended))
    report["model_version"] = about["model_version"]
    responses = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    instruction = about["manifest"]["critique_instruction"]
    quality = critique_quality([row["greedy_critique"] for row in rows], responses, ended, instruction)
    report["quality"] = asdict(quality)
    report["against"] = {name: _compare(pairs, found, other) for name, other in against.items()}
    _write_margins(out / MARGINS, pairs, found)
    (out / RESULTS).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    logger.info("%s", as_table({str(about["model"]): report}))
    logger.info(
        "critiques: %.0f %% end by themselves, %.0f %% of their word sequences repeat, %.0f %% name something of the "
        "response, %.0f %% are different from all others",
        *(100 * share for share in (quality.ended, quality.repeats, quality.names, quality.distinct)),
    )
    for name, gains in report["against"].items():
        for method, gain in gains.items():
            logger.info("%s against %s: %+.3f [%+.3f, %+.3f]", method, name, gain["value"], gain["low"], gain["high"])
    logger.info("wrote %s", out / RESULTS)
    return report


def _write_margins(path: Path, pairs: Sequence[PreferencePair], found: Mapping[str, torch.Tensor]) -> None:
    """A row a pair: what it is, and its margin by each method; for the report, and for readers' own analyses."""
    columns: dict[str, Any] = {
        "pair_id": [pair.id for pair in pairs],
        "category": [pair.category for pair in pairs],
        "characters_longer": [len(pair.chosen) - len(pair.rejected) for pair in pairs],
    }
    pq.write_table(pa.table(columns | {name: margin.tolist() for name, margin in found.items()}), path)


def _compare(
    pairs: Sequence[PreferencePair], found: Mapping[str, torch.Tensor], other: Path
) -> dict[str, dict[str, float]]:
    """Each method against the other evaluation's direct score: the matched baseline writes no critiques."""
    if not (other / MARGINS).is_file():
        raise DataError(f"{other / MARGINS} does not exist: is its folder one of a finished evaluation?")
    theirs = pq.read_table(other / MARGINS).to_pydict()
    if theirs["pair_id"] != [pair.id for pair in pairs]:
        raise DataError(f"{other} evaluated other pairs: give both the same data and limit")
    baseline = theirs["direct_score"]
    groups = [pair.group for pair in pairs]
    return {name: asdict(paired_difference(ours.tolist(), baseline, groups)) for name, ours in found.items()}
