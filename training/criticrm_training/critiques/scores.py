"""The score that ends a critique: how it is asked for, and how it is read.

What is not clearly one number of the scale that was asked for is no score: "7-8", "7 or 8", "7.5", "3 out of 5",
"Accuracy score: 7", "I'd give it a 7".
"""

from __future__ import annotations

import re
from typing import Literal

LEAST_SCORE, GREATEST_SCORE = 1, 10
GREATEST_EXPECTED = 9  # one digit: the expected score is read from one token
# How a critique is scored: by the number it ends in, as in the paper; by the number that the critic expects to write
# there, which every critique has and which ties less often; of a Critic-RM, by its reward; or 1 and 0 by its verdict.
ScoreBy = Literal["written", "expected", "reward", "verdict"]

_SCALE = r"1\s*(?:-|\u2013|to|and)\s*(?:9|10)"
# "Score:", "**Final score (1-10)**:", "The score is": at the beginning of a line or sentence, or as it was asked for.
_LABEL = re.compile(
    rf"""
    (?:(?:^|[.!?:;,)\]\n])[\s*_#>"'(\[-]{{0,20}}(?:(?:so|thus|my|the|its|your|final|overall|total)[\s,]+)*score
       |(?-i:(?P<word>\b[a-z\d]+[ ])[*_]*S(?:core|CORE)))
    (?![a-z])[*_\s]*
    (?:(?:[(\[]\s*(?:{_SCALE}|out\s+of\s+(?:9|10)|/\s*(?:9|10))\s*[)\]]|out\s+of\s+(?:9|10)(?=\W*[:=])|/\s*(?:9|10)(?=\W*[:=])
       |(?:on\s+a\s+scale\s+)?(?:of|from)\s+{_SCALE})[*_\s]*)?
    (?P<sign>[:=\u2192\uff1a-]|\bis\b:?)?[*_\s"'`(\[]*
    (?=\d)
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Below, (?=(?P<name>...))(?P=name) is matched once and never again in another way, as a possessive group is, which
# Python up to 3.11.4 gets wrong (CPython gh-106052).
#
# What may stand between the number and another one that makes it a range, a sum, a part or a scale.
_LEADS_ON = r"""(?=(?P<between>(?:
    \([^()\d\n]*\)
    |[ \t,;:/\\~+=*_()\[\]\u00b1\u00d7\u2190-\u21ff\u2212\u2013\u2014\uff0e\uff0c-]|\.\.+
    |\b(?:or|to|and|but|maybe|perhaps|possibly|even|rather|plus|minus|less|out|of|from|on|in|the|an?|scale|range|points?)\b
)*))(?P=between)"""
_NUMBER = re.compile(
    rf"""
    (?P<value>\d+)(?:\.0+)?(?![\w%]|[.,\uff0e\uff0c]\d)
    (?=(?P<part>(?:
        [*_\s]*+(?:points?\b)?[*_\s(]*+(?:/|(?:out\s+)?of)[*_\s]*+(?:the\s+)?(?P<of>\w+)(?:\.0+)?\b(?![.,]\d|%)
    )?))(?P=part)
    (?=(?P<scale>(?:
        [*_\s,]*+[(\[]?(?:(?:on\s+)?(?:a\s+|the\s+)?scale\s+)?(?:(?:of|from)\s+)?{_SCALE}\b(?![.,]?\d)[)\]]?
    )?))(?P=scale)
    (?!{_LEADS_ON}\d)
    (?![ \t]*\+|[ \t]+or[ \t]+(?:more|less|so|higher|lower|above|below|better|worse)\b)
    (?![\s*_]*+(?:stars?|percent|%))
    """,
    re.IGNORECASE | re.VERBOSE,
)


def score_request(score_by: ScoreBy) -> str:
    """What is added to the critique instruction. What is scored by its reward or verdict is asked for as in service."""
    if score_by in ("reward", "verdict"):
        return ""
    greatest = greatest_score(score_by)
    return f" End with a line that reads 'Score: ' and an integer from {LEAST_SCORE} (bad) to {greatest} (excellent)."


def greatest_score(score_by: ScoreBy) -> int:
    """The greatest score that is requested. An expected score is read at one token, which is a digit."""
    return GREATEST_SCORE if score_by == "written" else GREATEST_EXPECTED


def split_score(text: str) -> tuple[str, int | None]:
    r"""A critique without its score line, and the score, 1 to 10. The last line counts: some give several.

    >>> split_score("It is wrong: 7 is odd.\nScore: 3")
    ('It is wrong: 7 is odd.', 3)
    >>> split_score("A fine answer. Score (1-10): 9/10")
    ('A fine answer.', 9)
    >>> split_score("Score: 12")
    ('', None)
    >>> split_score("Score: 3 out of 5")
    ('Score: 3 out of 5', None)
    >>> split_score("I would not score it.")
    ('I would not score it.', None)
    """
    labels = list(_LABEL.finditer(text))
    # "Score: 4. The score is 9 to 7": a line as it was asked for comes before a sentence on scores.
    last = next(reversed([label for label in labels if label["sign"] != "is"] or labels), None)
    number = _NUMBER.match(text, last.end()) if last else None
    if last is None or number is None or (number["of"] or "10").lower() not in ("10", "ten"):
        return text.strip(), None
    # Everything from the score on is the score line, and what a rambling model adds after it.
    kept = text[: _start(last)]
    for label in reversed(labels[: labels.index(last)]):
        earlier = _NUMBER.match(kept, label.end())
        if earlier and label["sign"] != "is":
            kept = f"{kept[: _start(label)].rstrip()} {kept[earlier.end() :].lstrip('.!*) ')}"
    value = int(number["value"])
    return kept.strip(" \n\t*#-("), value if LEAST_SCORE <= value <= GREATEST_SCORE else None


def _start(label: re.Match[str]) -> int:
    """Where the score line starts: what ends the sentence or holds the word before it belongs to the critique."""
    return label.end("word") if label["word"] else label.start() + (label[0][0] in ".!?)]")
