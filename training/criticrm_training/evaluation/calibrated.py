"""A checkpoint's calibration from the scores of labelled pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from criticrm_model import Calibration

from ..calibrating import calibrate
from ..stats import Floats


def calibrated(
    known: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]], samples: Sequence[int] | None
) -> Calibration:
    """The checkpoint's own, with the scales of these pairs; all of it where the checkpoint has none.

    Args:
        known: the checkpoint's, as JSON.
        rows: of `score_items`, two a pair.
        samples: scales of the means over so many critiques are measured too; None without critiques.

    Raises:
        CalibrationError: a score is the same for all of them.
    """
    after = {}
    if samples is not None:
        after[1] = _of_pairs(row["greedy_score"] for row in rows)
        after |= {n: _of_pairs(np.mean(row["sampled_scores"][:n]) for row in rows) for n in samples if n > 1}
    reference_set = f"both responses of {len(rows) // 2} labelled pairs"
    here = calibrate(_of_pairs(row["direct_score"] for row in rows), after, reference_set)
    own = here if known is None else Calibration.model_validate(known)
    return own.model_copy(update={"scales": here.scales, "scaled_on": reference_set})


def _of_pairs(values: Iterable[float]) -> Floats:
    found: Floats = np.array(list(values), dtype=np.float64).reshape(-1, 2)
    return found
