"""Where sentences end, in prose and in steps of a calculation."""

from __future__ import annotations

import re

# Chinese and Japanese put no space after a sentence.
_END = re.compile(
    r"(?P<mark>[.!?\u2026]+)[\"'\u201d\u2019)\]*_]*(?=\s|$)|[\u3002\uff01\uff1f]+[\"'\u201d\u2019\u300d\u300f\uff09)\]*_]*"
)
# Before a name, a number or an example: never an end.
_NEVER = {
    "e.g",
    "i.e",
    "cf",
    "dr",
    "mr",
    "mrs",
    "ms",
    "mt",
    "prof",
    "st",
    "vs",
    "nos",
    "fig",
    "figs",
    "eq",
    "eqs",
    "approx",
}
# The same before a number alone: "Sec. 3", "No. 7".
_BEFORE_NUMBERS = {"no", "sec", "vol", "ch", "chap", "p", "pp", "par", "para", "ex", "art", "ver", "def", "thm", "prop"}
# An end only where the next sentence begins with a capital letter, or none follows.
_SELDOM = {"etc", "al", "jr", "sr", "inc", "ltd", "co", "corp", "a.m", "p.m", "u.s", "u.k", "ph.d"}
# "1.", "a)", "ii.": at the beginning of a line; a number also in a list that goes on in its line.
_LIST_MARK = re.compile(r"(?:^|\n)[ \t>*_(\-]*(?:\d{1,3}|[a-z]|[ivx]{1,4})$", re.IGNORECASE)
_NEXT_MARK = re.compile(r"[.!?;][*_]*\s+[*_]*(\d{1,3})$")
_WORD = re.compile(r"[\w.]+$")


def sentence_ends(text: str) -> list[int]:
    """The positions after each whole sentence, its closing quotes and brackets included.

    >>> sentence_ends("1. It is 2.5, e.g. here. Yes!")
    [24, 29]
    """
    return [match.end() for match in _END.finditer(text) if _is_end(text, match)]


def whole_sentences(text: str, most: int | None = None) -> str:
    """The first `most` sentences that have an end: what is learned from must end. As it is where no sentence ends.

    >>> whole_sentences('It says "no." It is 2.5 times as lo')
    'It says "no."'
    >>> whole_sentences("Right. And short. And", most=1)
    'Right.'
    >>> whole_sentences("Right and short")
    'Right and short'
    """
    ends = sentence_ends(text)[:most]
    return text[: ends[-1]] if ends else text


def _is_end(text: str, match: re.Match[str]) -> bool:
    following = text[match.end() :].lstrip()
    if match["mark"] in ("...", "\u2026"):
        return not following[:1].islower()
    if match["mark"] != ".":  # None is a Chinese one
        return True
    before = text[: match.start()]
    word = _WORD.search(before[-24:])
    if word is None:
        return True
    name = word[0].lower()
    if name in _NEVER or (name in _BEFORE_NUMBERS and following[:1].isdigit()):
        return False
    if name in _SELDOM:
        return not following or following[0].isupper()
    if re.search(r"(?:^|[\s(.])[A-HJ-Z]$", before) and following[:1].isupper():
        return False  # an initial, as in "J. Smith"; "I" is a word
    if _LIST_MARK.search(before):
        return False
    if before.endswith(": 1"):
        return not re.search(r"[.!?;,]\s+2\.\s", following)
    mark = _NEXT_MARK.search(before)
    return mark is None or not re.search(rf"(?:^|\s)[*_]*{int(mark[1]) - 1}\.[*_]*\s", before)
