"""Grading: the final answer of a solution, and whether two of them are equal.

What is graded is the answer at the end, not the way to it: a right number after wrong reasoning is right. `math-verify`
reads and compares (numbers, fractions, percentages, units, thousands separators, LaTeX and its expressions); here is
only what it doesn't know of GSM8K and of prices. In this order an answer is

1. what follows the last `####` of a line, if that is a number (GSM8K, arXiv 2110.14168),
2. what stands in `\\boxed{}`, or follows "the answer is" or the like,
3. the last number or formula of the text.

Not graded: numbers in words ("forty-two", "1 million"), words and choices ("yes", "B"), a list where one number is
wanted, conversions of a unit ("3 feet" for "36 inches"); a percentage equals both its number and its share (25 % is 25
and is 0.25). A text without a number has no answer, which is wrong and no vote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from math_verify import parse, verify

# As math-verify gives it: readings of one answer, none where there is no answer.
Answer = list[Any]

# A heading ("#### 1. Count the eggs") is no answer: nothing but units may follow the number.
_MARKED = re.compile(r"^####[ \t]*(-?[ \t]*\\?[$£€]?[ \t]*[\d.,]*\d(?:/\d+)?)(?![.:)][ \t]*\S)[^\d\n]*$", re.MULTILINE)
_MIXED = re.compile(r"(?<![\d./,])(\d+)[ \t]+(\d+)/(\d+)(?![\d/])")  # 5 1/2


def final_answer(text: str) -> Answer:
    """The answer of a solution; empty where it gives none.

    >>> final_answer("She sells 9 eggs at $2.\\n#### 18")[0]
    18
    >>> final_answer("I do not know.")
    []
    """
    text = text.replace("\N{MINUS SIGN}", "-")
    if marked := _MARKED.findall(text):
        text = marked[-1]
    # Models escape a price's dollar sign, which math-verify takes for the start of a formula.
    text = _MIXED.sub(_improper, text.replace("\\$", ""))
    found: Answer = parse(text)
    return found


def equal(reference: Answer, answer: Answer) -> bool:
    """Decimals are compared to six digits. What can't be compared within five seconds is not equal."""
    return bool(verify(reference, answer))


def votes(answers: Sequence[Answer]) -> list[int]:
    """For each the number of the first answer that it equals, its own if there is none; -1 for no answer."""
    voted: list[int] = []
    for i, answer in enumerate(answers):
        first = (j for j in range(i) if voted[j] == j and equal(answers[j], answer))
        voted.append(next(first, i) if answer else -1)
    return voted


def _improper(mixed: re.Match[str]) -> str:
    whole, part, parts = (int(group) for group in mixed.groups())
    return f"{whole * parts + part}/{parts}" if part < parts else mixed[0]
