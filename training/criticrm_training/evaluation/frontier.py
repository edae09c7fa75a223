"""What critiques cost and gain where only close responses get one: accuracy against tokens, over settings.

All of it is computed from one scoring of everything: direct scores, greedy critiques with their traces, sampled ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from criticrm_model import Calibration, Selection, Settle
from criticrm_model.selection import distances

from ..data.sources import DataError
from ..stats import Floats, difference, mean
from ..tables import as_columns
from .policies.choosing import best_of_k

LOST = 0.005  # of accuracy, at most, for a setting that is recommended
_MARGINS = 21
_SETTLED = (0.1, 0.3, 1.0)  # standard deviations of the score
_FOR = (4, 16)  # tokens

Rows: TypeAlias = Sequence[Mapping[str, Any]]  # of `score_items`, of one item


@dataclass(frozen=True, slots=True)
class _Written:
    """Critiques of one kind.

    Attributes:
        settle: where they are ended.
        scores, tokens: after them, and in them: `[items][responses]`.
    """

    n: int
    settle: Settle | None
    scores: list[list[float]]
    tokens: list[list[int]]


def frontier(
    items: Sequence[Rows],
    right: Sequence[Sequence[bool]],
    manifest: Mapping[str, Any],
    groups: Sequence[str],
    samples: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """What `critique: {"when": "close"}` gives where the best response of each item is kept.

    Args:
        items: with greedy critiques and their traces, and sampled ones.
        right: of the responses; a pair's are `[True, False]`.
        manifest: the critic's, as JSON.
        groups: the questions of the items.
        samples: means over so many sampled critiques are tried too.

    Returns:
        Of each setting `n`, `settled` and `for` (None: critiques go to their end) and `margin`: `critiqued` (share of
        the responses), `tokens` (share of those of one whole critique for all), `accuracy` and `lost` (`Estimate`s as
        JSON; the loss is against one whole critique for all), and `agreement`: the share of items in which the same
        response is kept as then. Those with one whole critique first, by margin.

    Raises:
        DataError: the checkpoint has no scale for scores before and after critiques.
    """
    require_scales(manifest)
    calibration = Calibration.model_validate(manifest["calibration"])
    before = calibration.scale(0)
    direct = [[before(row["direct_score"]) for row in rows] for rows in items]
    apart = [[d for d in distances(scores, "best") if d is not None] for scores in direct]
    margins = _margins_to_try(np.concatenate([np.array(one) for one in apart]))
    whole, *others = _ways(items, samples)
    all_tokens = sum(map(sum, whole.tokens))
    full, kept = _outcomes(whole.scores, right), _kept(whole.scores)
    found = []
    for written in (whole, *others):
        after = calibration.scale(written.n)
        for margin in margins:
            close = [[d <= margin for d in one] for one in apart]
            scores = [
                [after(a) if c else d for a, c, d in zip(*one, strict=True)]
                for one in zip(written.scores, close, direct, strict=True)
            ]
            spent = sum(t for one in zip(written.tokens, close, strict=True) for t, c in zip(*one, strict=True) if c)
            outcome = _outcomes(scores, right)
            found.append(
                {
                    "n": written.n,
                    "settled": written.settle and written.settle.within,
                    "for": written.settle and written.settle.tokens,
                    "margin": margin,
                    "critiqued": float(np.mean(np.concatenate(close))),
                    "tokens": spent / all_tokens,
                    "accuracy": asdict(mean(outcome, groups)),
                    "lost": asdict(difference(full, outcome, groups)),
                    "agreement": float(np.mean([a == b for a, b in zip(_kept(scores), kept, strict=True)])),
                }
            )
    return found


def require_scales(manifest: Mapping[str, Any]) -> None:
    """Before hours of work. Raises DataError: as `frontier`."""
    if not (manifest["calibration"] or {}).get("scales"):
        raise DataError(
            "--frontier: this checkpoint has no common scale for scores before and after critiques; "
            "`criticrm evaluate --calibrate` on labelled pairs measures it"
        )


def _ways(items: Sequence[Rows], samples: Sequence[int]) -> Iterator[_Written]:
    """One whole critique first."""
    scores = [[row["greedy_score"] for row in rows] for rows in items]
    yield _Written(1, None, scores, [[row["critique_tokens"] for row in rows] for rows in items])
    std = float(np.std(np.concatenate([np.array(one) for one in scores])))
    traces = [[row["greedy_trace"] for row in rows] for rows in items]
    for settle in (Settle(within * std, tokens) for within in _SETTLED for tokens in _FOR):
        places = [[_end(settle, trace) for trace in several] for several in traces]
        ended = [[t[p] for t, p in zip(*one, strict=True)] for one in zip(traces, places, strict=True)]
        yield _Written(1, settle, ended, [[place + 1 for place in one] for one in places])
    for n in samples:
        if n > 1:
            mean_scores = [[float(np.mean(row["sampled_scores"][:n])) for row in rows] for rows in items]
            yield _Written(n, None, mean_scores, [[sum(row["sampled_tokens"][:n]) for row in rows] for rows in items])


def _end(settle: Settle, trace: Sequence[float]) -> int:
    place = settle.position(trace)
    return len(trace) - 1 if place is None else place


def _outcomes(scores: Sequence[Sequence[float]], right: Sequence[Sequence[bool]]) -> Floats:
    """`[items]`: is the response with the highest score right? Among equals, one at random."""
    return np.array([best_of_k(one, labels, len(one)) for one, labels in zip(scores, right, strict=True)])


def _kept(scores: Sequence[Sequence[float]]) -> list[int]:
    return [int(np.argmax(one)) for one in scores]


def recommend(found: Sequence[Mapping[str, Any]], chosen_on: str) -> Selection:
    """The setting with the fewest tokens that loses no more than `LOST` of accuracy.

    Args:
        found: of `frontier`, on items that nothing is reported of afterwards.
        chosen_on: these, by name.
    """
    best = cheapest(found)
    return Selection(
        margin=max(best["margin"], 1e-6),
        rank="best",
        n=best["n"],
        settled=best["settled"],
        tokens=best["for"] or 8,
        chosen_on=chosen_on,
    )


def cheapest(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The setting with the fewest tokens that loses at most `LOST`: one whole critique for all loses nothing."""
    enough = [point for point in found if point["lost"]["value"] <= LOST]
    return min(enough, key=lambda point: (point["tokens"], point["margin"]))


def whole_critiques(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The margins of one critique that is never ended."""
    return [point for point in found if point["n"] == 1 and point["settled"] is None]


def describe_frontier(found: Sequence[Mapping[str, Any]]) -> str:
    """A table: margins for one whole critique, then the cheapest setting of all that is accurate enough."""
    rows = [("critiques", "ended within", "margin", "critiqued", "tokens", "accuracy", "lost", "same choice")]
    for point in (*whole_critiques(found), cheapest(found)):
        lost = point["lost"]
        rows.append(
            (
                str(point["n"]),
                "-" if point["settled"] is None else f"{point['settled']:.3f} for {point['for']}",
                f"{point['margin']:.3f}",
                f"{point['critiqued']:.1%}",
                f"{point['tokens']:.1%}",
                f"{point['accuracy']['value']:.3f}",
                f"{lost['value']:+.3f} [{lost['low']:+.3f}, {lost['high']:+.3f}]",
                f"{point['agreement']:.1%}",
            )
        )
    return "\n".join([*as_columns(rows), f"the last row has the fewest tokens of all settings that lose {LOST:.1%}"])


def _margins_to_try(found: Floats) -> list[float]:
    """Quantiles of the distances that there are, rounded up: each of them is close at its own margin."""
    steps = np.quantile(found, np.linspace(0, 1, _MARGINS))
    return sorted({math.ceil(value * 1000 + 1e-9) / 1000 for value in [0.0, *steps.tolist()]})
