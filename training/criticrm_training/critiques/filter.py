"""`criticrm critiques filter`: what agrees with the labels is kept (arXiv 2411.16646, consistency-guided filtering)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean

from ..data.sources import DataError
from ..evaluation.quality import names_something, repetition
from .records import SIDES, Critique, SideName, by_response

_SENTENCE_END = re.compile(r"""[.!?]["')\]*]*(?=\s|$)""")
# As "out of 9" or "8/10": critics that were asked for a score speak of it before they give it.
_SCORE_TALK = re.compile(r"\b(?:scores?|scored|rating)\b|\d\s*(?:/|out of)\s*(?:9|10)\b", re.IGNORECASE)

_OPENING_WORDS = 6


@dataclass(frozen=True, slots=True)
class Filtered:
    """`kept` critiques, and how many `pairs` and `critiques` were kept or dropped, by reason."""

    kept: list[Critique]
    pairs: Counter[str] = field(default_factory=Counter)
    critiques: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Quality:
    """What a critique must be to learn from; the defaults let all through.

    Attributes:
        least_words: a score alone teaches nothing to write.
        most_repeats: greatest share of four-word sequences that came before in the same critique.
        most_sentences: a longer critique is cut after these; small models say the same again after one or two.
        most_alike: of critiques that open with the same six words, the first so many. What many responses get said
            is what the trained model says of every response when it is greedy.
    """

    least_words: int = 0
    most_repeats: float = 1.0
    most_sentences: int | None = None
    most_alike: int | None = None

    def fault(self, critique: Critique) -> str | None:
        if len(critique.text.split()) < self.least_words:
            return "too short"
        if _SCORE_TALK.search(critique.text):
            return "speaks of its score"
        return "repeats itself" if repetition(critique.text) > self.most_repeats else None


def whole_sentences(text: str, most: int | None = None) -> str:
    """The first `most` sentences that have an end: what is learned from must end. As it is where no sentence ends.

    >>> whole_sentences('It says "no." It is 2.5 times as lo')
    'It says "no."'
    >>> whole_sentences("Right. And short. And", most=1)
    'Right.'
    >>> whole_sentences("Right and short")
    'Right and short'
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)][:most]
    return text[: ends[-1]] if ends else text


def filter_critiques(
    critiques: Sequence[Critique],
    quality: Quality = Quality(),
    *,
    ignore_labels: bool = False,
    responses: Mapping[tuple[str, SideName], str] | None = None,
    instruction: str = "",
) -> Filtered:
    """Keep a pair if the mean score of its chosen response is above that of the rejected one; then, of the chosen
    response, the critiques that score it above the mean of the rejected one, and the other way round.

    The inequality between pairs is the paper's idea; the one between critiques is this project's.

    All scores count for the means; of what agrees with the labels, only critiques of this quality are kept, and of
    these only whole sentences, and none that speak of the score: a number must not leak into the reward.

    Args:
        ignore_labels: quality alone decides. Where the scores agree with the labels by luck, keeping what agrees
            writes the labels into the critiques, and a reward that is trained after these reads them there.
        responses: by pair and side: critiques that name nothing of theirs are dropped.
        instruction: what the critiques were asked for with; to repeat it is to name nothing.

    Raises:
        DataError: a critique is of none of `responses`.
    """
    scored = list(critiques) if ignore_labels else [c for c in critiques if c.score is not None]
    result = Filtered([])
    result.critiques["no score that can be read"] = len(critiques) - len(scored)
    groups = by_response(scored)
    openings: Counter[tuple[str, ...]] = Counter()
    for pair_id in dict.fromkeys(c.pair_id for c in critiques):
        sides = {side: groups.get((pair_id, side), []) for side in SIDES}
        everything = [c for side in sides.values() for c in side]
        if not all(sides.values()):
            result.pairs["a response without a score"] += 1
            result.critiques["of a pair that was dropped"] += len(everything)
            continue
        agreeing = everything
        if not ignore_labels:
            means = {side: mean(float(c.score or 0) for c in group) for side, group in sides.items()}
            if means["chosen"] <= means["rejected"]:
                result.pairs["contradicts the label" if means["chosen"] < means["rejected"] else "a tie"] += 1
                result.critiques["of a pair that was dropped"] += len(everything)
                continue
            agreeing = [c for c in everything if _agrees(c, means)]
            result.critiques["disagrees with the label"] += len(everything) - len(agreeing)
        agreeing = [replace(c, text=whole_sentences(c.text, quality.most_sentences)) for c in agreeing]
        faults = [
            quality.fault(c) or _off_topic(c, responses, instruction) or _alike(c, openings, quality.most_alike)
            for c in agreeing
        ]
        result.critiques.update(fault for fault in faults if fault)
        kept = [c for c, fault in zip(agreeing, faults, strict=True) if not fault]
        if {c.side for c in kept} != {"chosen", "rejected"}:
            result.pairs["only poor critiques of a response"] += 1
            result.critiques["of a pair that was dropped"] += len(kept)
            continue
        result.pairs["kept"] += 1
        result.critiques["kept"] += len(kept)
        result.kept.extend(kept)
    return result


def summary(found: Filtered) -> list[tuple[str, str]]:
    """Rows of a table: what was kept, what was dropped and why."""
    rows = []
    for what, counts in (("pairs", found.pairs), ("critiques", found.critiques)):
        total = max(1, sum(counts.values()))
        rows += [(f"{what}: {why}", f"{n} ({n / total:.1%})") for why, n in counts.most_common() if n]
    return rows


def _agrees(critique: Critique, means: dict[SideName, float]) -> bool:
    score = float(critique.score or 0)
    return score > means["rejected"] if critique.side == "chosen" else score < means["chosen"]


def _alike(critique: Critique, openings: Counter[tuple[str, ...]], most: int | None) -> str | None:
    """Counts the critique among its like, if `most` lets it in."""
    opening = tuple(critique.text.lower().split()[:_OPENING_WORDS])
    if most is not None and openings[opening] >= most:
        return "opens like many others"
    openings[opening] += 1
    return None


def _off_topic(
    critique: Critique, responses: Mapping[tuple[str, SideName], str] | None, instruction: str
) -> str | None:
    if responses is None:
        return None
    response = responses.get((critique.pair_id, critique.side))
    if response is None:
        raise DataError(f"there are critiques of a pair {critique.pair_id!r}, but no such pair: is it other data?")
    return None if names_something(critique.text, response, instruction) else "names nothing of the response"
