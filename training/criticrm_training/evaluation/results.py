"""What every evaluation of preference pairs leaves: a table of margins, and a report that others compare with."""

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

from criticrm_model.files import whole, write_json

from ..data.pairs import PreferencePair
from ..data.sources import DataError
from ..stats import paired_difference
from ..tables import as_table

logger = logging.getLogger(__name__)

RESULTS = "evaluation.json"
MARGINS = "margins.parquet"
ABOUT_PAIRS = ("pair_id", "category", "characters_longer")  # the columns of MARGINS that are no method


def write_results(
    out: Path,
    name: str,
    pairs: Sequence[PreferencePair],
    found: Mapping[str, torch.Tensor],
    report: dict[str, Any],
    *,
    headline: str,
    against: Mapping[str, Path],
) -> None:
    """Complete `report`, write it and the margins to `out`, and print the table.

    Args:
        found: margins by method, chosen minus rejected, `[pairs]`; NaN where a method has none.
        headline: the method that other evaluations compare with.
        against: finished evaluations of the same pairs, by name.

    Raises:
        DataError: another evaluation holds other pairs.
    """
    report["headline"] = headline
    report["against"] = {other: _compare(pairs, found, folder) for other, folder in against.items()}
    columns: dict[str, Any] = {
        "pair_id": [pair.id for pair in pairs],
        "category": [pair.category for pair in pairs],
        "characters_longer": [len(pair.chosen) - len(pair.rejected) for pair in pairs],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULTS).unlink(missing_ok=True)  # written last: margins never stand beside a report of others
    with whole(out / MARGINS) as unfinished:
        pq.write_table(pa.table(columns | {method: margin.tolist() for method, margin in found.items()}), unfinished)
    write_json(out / RESULTS, report)
    logger.info("%s", as_table({name: report}))
    for other, gains in report["against"].items():
        for method, gain in gains.items():
            logger.info("%s against %s: %+.3f [%+.3f, %+.3f]", method, other, gain["value"], gain["low"], gain["high"])
    logger.info("wrote %s", out / RESULTS)


def _compare(
    pairs: Sequence[PreferencePair], found: Mapping[str, torch.Tensor], other: Path
) -> dict[str, dict[str, float]]:
    """Each method against the other evaluation's headline, on the pairs that both have."""
    for name in (RESULTS, MARGINS):
        if not (other / name).is_file():
            raise DataError(f"{other / name} does not exist: is its folder one of a finished evaluation?")
    theirs = pq.read_table(other / MARGINS).to_pydict()
    if theirs["pair_id"] != [pair.id for pair in pairs]:
        raise DataError(f"{other} evaluated other pairs: give both the same data and limit")
    headline = json.loads((other / RESULTS).read_text(encoding="utf-8"))["headline"]
    baseline = torch.tensor(theirs[headline], dtype=torch.float64)
    gains = {}
    for name, ours in found.items():
        both = (~(ours.isnan() | baseline.isnan())).nonzero().flatten().tolist()
        groups = [pairs[i].group for i in both]
        gains[name] = asdict(paired_difference(ours[both].tolist(), baseline[both].tolist(), groups))
    return gains
