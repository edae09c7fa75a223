"""What a method makes of each preference pair: the margin, and whether the chosen response is preferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..stats import Floats, outcomes
from .items import EvaluationItem
from .scoring import by_item, margins, method_scores, sampled_scores
from .subsets import win_rate


@dataclass(frozen=True, slots=True)
class Preferences:
    """One method on every pair, `[pairs]` float64 each; NaN where the method has nothing to say.

    Attributes:
        margins: chosen minus rejected; of a mean over m of n samples, that over all n.
        outcomes: 1 where the chosen response is preferred, 0 where the rejected one is, 0.5 for a tie; of a mean over
            m of n samples the expectation of that.
    """

    margins: Floats
    outcomes: Floats

    @classmethod
    def of(cls, margins: Any) -> Preferences:
        """From margins alone."""
        found = np.asarray(margins, dtype=np.float64)
        return cls(found, outcomes(found))


def mean_of(m: int) -> str:
    """The method's name."""
    return f"mean of {m}"


def pair_preferences(
    items: Sequence[EvaluationItem], rows: Sequence[Mapping[str, Any]], counts: Sequence[int]
) -> dict[str, Preferences]:
    """The scores by method: direct, after the greedy critique where there is one, and the mean of m sampled for each m.

    Args:
        items: pairs.
        rows: of `score_items`.
        counts: the values of m, no more than were sampled.
    """
    found = {name: Preferences.of(margins(scores)) for name, scores in method_scores(rows).items()}
    if counts:
        samples = sampled_scores(rows)
        sides = by_item(items, samples)
        for m in counts:
            rates = [win_rate(chosen, rejected, m)[0] for chosen, rejected in sides]
            found[mean_of(m)] = Preferences(margins(samples.mean(axis=1)), np.array(rates))
    return found
