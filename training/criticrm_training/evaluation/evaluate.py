"""`criticrm evaluate`: pair accuracy of a Critic-RM with critiques it writes now, beside what it must beat."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from criticrm_model.default import resolve

from ..data.pairs import PreferencePair, content_sha256
from ..data.sources import DataError
from ..tables import accuracy_report
from .items import as_item
from .quality import critique_quality
from .results import write_results
from .scoring import margins, method_scores, score_items
from .serving import scoring_service
from .teacher_forced import teacher_forced_margins

logger = logging.getLogger(__name__)


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
    teacher_forced: Path | None = None,
    critiques: bool = True,
) -> dict[str, Any]:
    """Score, report, and write `out/evaluation.json`; the scores stay in `out/scores`.

    Args:
        model: served for as long as it takes, unless `url` names a service that runs.
        samples: for each m, the mean over m sampled critiques is reported.
        against: finished evaluations of the same pairs, by name: each is compared with pair by pair.
        teacher_forced: finished critiques of the pairs by another model; the reward after these is reported too.
        critiques: without them the direct score alone is measured.

    Raises:
        DataError: another evaluation holds other pairs; or a service can't be given critiques.
        EndpointError, PartsError, ServingError
    """
    if teacher_forced and url:
        raise DataError("teacher-forced rewards need the weights: give --model, not --url")
    if samples and not critiques:
        raise DataError("--samples are critiques: leave out --direct-only")
    with scoring_service(model, url, key=key, concurrency=concurrency) as (service, about):
        run = {"model_version": about["model_version"], "pairs": content_sha256(pairs)}
        items = [as_item(pair) for pair in pairs]
        rows = score_items(
            items,
            service,
            samples=max(samples, default=0),
            critiques=critiques,
            out=out / "scores",
            run=run,
            unit="pair",
        )

    found = {name: margins(scores) for name, scores in method_scores(rows, samples).items()}
    if teacher_forced:
        found["teacher-forced"] = teacher_forced_margins(
            resolve(model), pairs, teacher_forced, out=out / "teacher-forced", run=run
        )
    ended = [row["ended"] for row in rows] if critiques else []
    report = accuracy_report(pairs, found, sum(ended) / len(ended) if ended else None)
    report["model_version"] = about["model_version"]
    report["trained_on_pairs"] = sum(data["pairs"] for data in about["manifest"]["training_data"])
    if critiques:
        responses = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
        instruction = about["manifest"]["critique_instruction"]
        quality = critique_quality([row["greedy_critique"] for row in rows], responses, ended, instruction)
        report["quality"] = asdict(quality)
    write_results(out, str(about["model"]), pairs, found, report, headline="direct_score", against=against)
    if critiques:
        logger.info("%s", quality)
    return report
