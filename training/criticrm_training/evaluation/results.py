"""What every evaluation of preference pairs leaves: tables of margins and outcomes, and a report."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from criticrm_model.files import whole, write_json

from ..data.pairs import PreferencePair
from ..tables import as_table, preference_report
from .arms import MARGINS, OUTCOMES, RESULTS, Arm, compare, describe, read_arm, teacher_of
from .outcomes import Preferences
from .pair_texts import write_texts

logger = logging.getLogger(__name__)

Against = Mapping[str, Sequence[Path]]


def write_results(
    out: Path,
    name: str,
    pairs: Sequence[PreferencePair],
    found: Mapping[str, Preferences],
    *,
    critiques_ended: float | None,
    headline: str,
    against: Against,
    more: Mapping[str, Any] = {},
    lines: Sequence[str] = (),
    written: Mapping[str, Sequence[Any]] = {},
) -> dict[str, Any]:
    """Write the report, the margins and the outcomes to `out`, print the table, and return the report.

    Args:
        name: of what was evaluated.
        found: by method.
        critiques_ended: share of critiques that ended by themselves; None where there were none.
        headline: the method that stands for this evaluation where it is compared.
        against: finished evaluations of the same pairs, by the name of their arm.
        more: for the report.
        lines: for the table.
        written: about the responses, for the report's readers: columns of `pair_texts.about_sides`.

    Raises:
        DataError: another evaluation holds other pairs.
    """
    report = preference_report(pairs, {method: f.outcomes for method, f in found.items()}, critiques_ended)
    report.update(more)
    digests = [hashlib.sha256(pair.group.encode()).hexdigest()[:16] for pair in pairs]
    outcomes = {m: f.outcomes[None] for m, f in found.items()}
    ours = Arm(name, headline, outcomes, digests, _sha256(pairs), frozenset([teacher_of(more)]))
    others = {other: read_arm(other, folders) for other, folders in against.items()}
    report |= {"headline": headline, "pairs": ours.pairs}
    report["against"] = {other: compare(ours, arm) for other, arm in others.items()}

    about: dict[str, Any] = {
        "pair_id": [pair.id for pair in pairs],
        "group": digests,
        "category": [pair.category for pair in pairs],
        "characters_longer": [len(pair.chosen) - len(pair.rejected) for pair in pairs],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULTS).unlink(missing_ok=True)  # written last: the tables never stand beside a report of others
    for file, field in ((MARGINS, "margins"), (OUTCOMES, "outcomes")):
        with whole(out / file) as unfinished:
            pq.write_table(pa.table(about | {m: getattr(f, field) for m, f in found.items()}), unfinished)
    write_texts(out, pairs, written)
    write_json(out / RESULTS, report)
    logger.info("%s", as_table({name: report}))
    for line in lines:
        logger.info("%s", line)
    for other, comparisons in report["against"].items():
        for comparison in comparisons:
            logger.info("%s", describe(comparison, "this", other))
    logger.info("wrote %s", out / RESULTS)
    return report


def _sha256(pairs: Sequence[PreferencePair]) -> str:
    """The digest of the pairs' texts, in their order, whatever their ids."""
    said = [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
