"""`criticrm critiques filter`: what agrees with the labels is kept (arXiv 2411.16646, consistency-guided filtering)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Literal

from criticrm_model import CriticRMError

from ..answers import equal, stated_answer
from ..data.pairs import PreferencePair
from ..data.sources import DataError
from ..evaluation.quality import names_something, repetition
from .records import SIDES, Critique, SideName, by_response
from .sentences import sentence_ends, whole_sentences
from .verdict import VerdictRule, own_answer

# As "out of 9" or "8/10": critics that were asked for a score speak of it before they give it.
_SCORE_TALK = re.compile(r"\b(?:scores?|scored|rating)\b|\d\s*(?:/|out of)\s*(?:9|10)\b", re.IGNORECASE)

_OPENING_WORDS = 6


class FilterError(CriticRMError):
    """These settings can't be used together."""


@dataclass(frozen=True, slots=True)
class Filtered:
    """`kept` critiques, and how many `pairs` and `critiques` were kept or dropped, by reason."""

    kept: list[Critique]
    pairs: Counter[str] = field(default_factory=Counter)
    critiques: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class QualityBounds:
    """Bounds that a critique must meet to be trained on; the defaults keep all.

    Attributes:
        least_words: a score alone teaches nothing to write.
        most_repeats: greatest share of four-word sequences that came before in the same critique.
        most_sentences: a longer critique is cut after these; small models say the same again after one or two.
        most_alike: of critiques that begin with the same six words, only this many are kept. A frequent opening
            in the training data becomes the only one of a greedy model.
    """

    least_words: int = 0
    most_repeats: float = 1.0
    most_sentences: int | None = None
    most_alike: int | None = None

    def fault(self, critique: Critique, *, of_score: bool = True) -> str | None:
        """What is wrong with it. `of_score`: to speak of a score is a fault, for it was asked for one."""
        if critique.finish_reason != "stop":
            return "cut at the limit"
        if len(critique.text.split()) < self.least_words:
            return "too short"
        if of_score and _SCORE_TALK.search(critique.text):
            return "speaks of its score"
        return "repeats itself" if repetition(critique.text) > self.most_repeats else None


NO_BOUNDS = QualityBounds()
By = Literal["score", "verdict"]


def filter_critiques(
    critiques: Sequence[Critique],
    quality: QualityBounds = NO_BOUNDS,
    *,
    by: By = "score",
    per_side: bool = False,
    ignore_labels: bool = False,
    solved: Callable[[Critique], bool] | None = None,
    responses: Mapping[tuple[str, SideName], str] | None = None,
    instruction: str = "",
) -> Filtered:
    """Keep the critiques that agree with the labels, and of these the ones of this quality.

    By score: a pair if the mean score of its chosen response is above that of its rejected one; then, of the chosen
    response, the critiques that score it above the mean of the rejected one, and the other way round. The inequality
    between pairs is the paper's idea; the one between critiques is this project's. All scores count for the means. Only
    whole sentences are kept, and none that speak of the score: a number must not leak into the reward.

    By verdict: each critique on its own, of the chosen response if its verdict is "right", of the rejected one if it is
    "wrong". Its text stays as it is.

    A draft that was cut at its limit has no end to learn and is dropped, unless `most_sentences` ends it before.

    Args:
        per_side: a pair may keep critiques of one response alone.
        ignore_labels: quality alone decides. Where the scores agree with the labels by luck, keeping what agrees
            writes the labels into the critiques, and a reward that is trained after these reads them there.
        solved: whether a critique has solved the problem (`check_solved`), beside its verdict: a wrong solution calls a
            wrong response wrong by luck, and is nothing to learn.
        responses: by pair and side: critiques that name nothing of theirs are dropped.
        instruction: what the critiques were asked for with; to repeat it is to name nothing.

    Raises:
        DataError: a critique is of none of `responses`.
        FilterError: critiques that are kept by their verdict are to be cut.
    """
    if by == "verdict" and quality.most_sentences is not None:
        raise FilterError("critiques that are kept by their verdict are not cut to a number of sentences: it ends them")
    result = Filtered([])
    openings: Counter[tuple[str, ...]] = Counter()
    groups = by_response(critiques)
    for pair_id in dict.fromkeys(c.pair_id for c in critiques):
        group = [c for side in SIDES for c in groups.get((pair_id, side), [])]
        agreeing = (
            group
            if ignore_labels
            else _by_verdict(group, solved, result)
            if by == "verdict"
            else _by_score(group, result)
        )
        if agreeing is None:  # for a reason that is counted
            continue
        kept = []
        for critique in agreeing:
            c = cut_sentences(critique, quality.most_sentences) if by == "score" else critique
            fault = (
                quality.fault(c, of_score=by == "score")
                or _find_off_topic(c, responses, instruction)
                or _find_common_opening(c, openings, quality.most_alike)
            )
            if fault:
                result.critiques[fault] += 1
            else:
                kept.append(c)
        sides = {c.side for c in kept}
        if not sides or (len(sides) < len(SIDES) and not per_side):
            short = "no critique" if per_side else "no critique of a response"
            result.pairs[f"{short} that agrees and is fit to learn from"] += 1
            result.critiques["of a pair that was dropped"] += len(kept)
            continue
        result.pairs["kept" if len(sides) == len(SIDES) else f"kept: the {sides.pop()} response alone"] += 1
        result.critiques["kept"] += len(kept)
        result.kept.extend(kept)
    return result


def check_solved(
    pairs: Sequence[PreferencePair], rules: Mapping[str, VerdictRule | None]
) -> Callable[[Critique], bool]:
    """Whether a critique's own answer is that of its pair's chosen response; true where that response states none.

    Args:
        rules: of each category of the pairs, how its critiques are read (`Tasks.rules`).
    """
    by_id = {pair.id: (pair.category, stated_answer(pair.chosen)) for pair in pairs}

    def solved(critique: Critique) -> bool:
        if critique.pair_id not in by_id:
            raise DataError(f"there are critiques of a pair {critique.pair_id!r}, but no such pair: is it other data?")
        category, right = by_id[critique.pair_id]
        rule = rules[category]
        return not right or rule is None or equal(right, own_answer(critique.text, rule))

    return solved


def _by_verdict(
    group: Sequence[Critique], solved: Callable[[Critique], bool] | None, result: Filtered
) -> list[Critique]:
    readable = [c for c in group if c.verdict is not None]
    agreeing = [c for c in readable if c.verdict == (c.side == "chosen")]
    kept = [c for c in agreeing if solved is None or solved(c)]
    result.critiques["no verdict that can be read"] += len(group) - len(readable)
    result.critiques["disagrees with the label"] += len(readable) - len(agreeing)
    result.critiques["its own answer is not the chosen response's"] += len(agreeing) - len(kept)
    return kept


def _by_score(group: Sequence[Critique], result: Filtered) -> list[Critique] | None:
    """None: the pair is dropped."""
    scored = [c for c in group if c.score is not None]
    result.critiques["no score that can be read"] += len(group) - len(scored)
    means: dict[SideName, float] = {}
    for side in SIDES:
        if scores := [float(c.score or 0) for c in scored if c.side == side]:
            means[side] = mean(scores)
    if len(means) < len(SIDES):
        reason = "a response without a score"
    elif means["chosen"] <= means["rejected"]:
        reason = "contradicts the label" if means["chosen"] < means["rejected"] else "a tie"
    else:
        agreeing = [c for c in scored if _agrees(c, means)]
        result.critiques["disagrees with the label"] += len(scored) - len(agreeing)
        return agreeing
    result.pairs[reason] += 1
    result.critiques["of a pair that was dropped"] += len(scored)
    return None


def cut_sentences(critique: Critique, most: int | None) -> Critique:
    """Its first `most` whole sentences; a draft that was cut at its limit after so many has an end now."""
    ends = sentence_ends(critique.text)
    ended = critique.finish_reason == "stop" or (most is not None and len(ends) >= most)
    return replace(
        critique,
        text=whole_sentences(critique.text, most),
        finish_reason="stop" if ended else critique.finish_reason,
    )


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


def _find_common_opening(critique: Critique, openings: Counter[tuple[str, ...]], most: int | None) -> str | None:
    """Counts the critique among its like, if `most` lets it in."""
    opening = tuple(critique.text.lower().split()[:_OPENING_WORDS])
    if most is not None and openings[opening] >= most:
        return "opens like many others"
    openings[opening] += 1
    return None


def _find_off_topic(
    critique: Critique, responses: Mapping[tuple[str, SideName], str] | None, instruction: str
) -> str | None:
    if responses is None:
        return None
    response = responses.get((critique.pair_id, critique.side))
    if response is None:
        raise DataError(f"there are critiques of a pair {critique.pair_id!r}, but no such pair: is it other data?")
    return None if names_something(critique.text, response, instruction) else "names nothing of the response"
