"""How far two runs of the same sequences are apart in their rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import stdev
from typing import Any


@dataclass(frozen=True, slots=True)
class Agreement:
    """Differences between two runs of the same n sequences, in reward units.

    Attributes:
        mean_signed_diff: vLLM minus transformers; far from 0 beside `max_abs_diff` means a drift, not noise.
        rank_agreement: share of all pairs of sequences that both put in the same order.
        std: of the reference's rewards; 0 for one sequence.
    """

    n: int
    max_abs_diff: float
    rms_diff: float
    mean_signed_diff: float
    rank_agreement: float
    std: float


@dataclass(frozen=True, slots=True)
class Rewards:
    """The same n rewards by both, `[n]` each."""

    served: list[float]
    reference: list[float]


def agreement(rewards: Rewards) -> Agreement:
    """How far the rewards of two runs of the same n sequences agree."""
    served, reference = rewards.served, rewards.reference
    differences = [a - b for a, b in zip(served, reference, strict=True)]
    n = len(differences)
    same = total = 0
    for i in range(n):
        for j in range(i):
            if reference[i] != reference[j]:
                total += 1
                same += (served[i] > served[j]) == (reference[i] > reference[j])
    return Agreement(
        n=n,
        max_abs_diff=max(map(abs, differences)),
        rms_diff=math.hypot(*differences) / math.sqrt(n),
        mean_signed_diff=sum(differences) / n,
        rank_agreement=same / total if total else 1.0,
        std=stdev(reference) if n > 1 else 0.0,
    )


def format_table(dtype: str, found: Mapping[str, Agreement]) -> list[str]:
    """As lines: a header, then a line for each kind of reward."""
    header = f"{dtype:<22}{'n':>5}{'largest':>12}{'rms':>12}{'mean signed':>14}{'same order':>12}"
    return [f"{header}   vLLM against transformers"] + [
        f"{name:<22}{a.n:>5}{a.max_abs_diff:>12.2e}{a.rms_diff:>12.2e}{a.mean_signed_diff:>14.2e}"
        f"{a.rank_agreement:>12.4f}"
        for name, a in found.items()
    ]


def summarize(found: Mapping[str, Agreement], dtype: str) -> dict[str, Any]:
    """The worst of all, then each."""
    every = list(found.values())
    return {
        "max_abs_diff": max(a.max_abs_diff for a in every),
        "mean_signed_diff": max((a.mean_signed_diff for a in every), key=abs),
        "n": found["score"].n,
        "dtype": dtype,
        "rank_agreement": min(a.rank_agreement for a in every),
        **{name: asdict(a) for name, a in found.items()},
    }
