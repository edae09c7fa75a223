"""`criticrm benchmark`: a published benchmark through the service, with its authors' metrics."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from criticrm_model.files import write_json

from ...data.sources import source_name
from ...tables import LONGER, as_table
from ..items import draw_items, items_sha256
from ..outcomes import mean_of
from ..scoring import by_item, describe_truncation, method_scores, sampled_scores, score_items, truncation
from ..serving import scoring_service
from ..subsets import drawn_means
from .formats import FORMATS, read_items
from .metrics import measure

logger = logging.getLogger(__name__)

RESULTS = "benchmark.json"


def benchmark(
    name: str,
    data: str | None,
    out: Path,
    *,
    model: str,
    url: str | None,
    key: str | None,
    concurrency: int,
    samples: tuple[int, ...],
    limit: int,
) -> dict[str, Any]:
    """Score, report, and write `out/benchmark.json`; the scores stay in `out/scores`.

    Args:
        name: of one of `FORMATS`.
        data: a file, folder or dataset in this format; the published one unless given.
        samples: for each m, the mean over m sampled critiques is reported, as expected over draws of m of the
            greatest number.
        limit: only so many prompts (0: all), drawn by their hash; a group is never split.

    Raises:
        DataError, EndpointError, PartsError, ServingError
    """
    source = data or FORMATS[name].published
    items = draw_items(read_items(name, source), limit)
    with scoring_service(model, url, key=key, concurrency=concurrency) as (service, about):
        run = {"model_version": about["model_version"], "items": items_sha256(items)}
        rows = score_items(items, service, samples=max(samples, default=0), out=out / "scores", run=run)

    lengths = np.array([len(text) for item in items for text in item.responses], dtype=np.float64)
    methods = {LONGER: [lengths]} | {method: [scores] for method, scores in method_scores(rows).items()}
    methods |= {mean_of(m): list(drawn_means(sampled_scores(rows), m)) for m in samples}
    table: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for method, draws in methods.items():
        for metric, found in measure(name, items, [by_item(items, scores) for scores in draws]).items():
            table[metric][method] = asdict(found)
    report = {
        "benchmark": name,
        "data": source_name(source),
        "model": about["model"],
        "model_version": about["model_version"],
        "items": len(items),
        "responses": len(rows),
        "accuracy": dict(table),
        "truncated": truncation(rows),
        "critiques_ended": sum(row["ended"] for row in rows) / len(rows),
    }
    write_json(out / RESULTS, report)
    title = f"{name} [95 % interval, Bayesian bootstrap over prompts] of n prompts"
    logger.info("%s", as_table({str(about["model"]): report}, title))
    logger.info("%s", describe_truncation(report["truncated"]))
    logger.info("wrote %s", out / RESULTS)
    return report
