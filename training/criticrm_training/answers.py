r"""Grading: the final answer of a solution, and whether two of them are equal.

What is graded is the answer at the end, not the way to it: a right number after wrong reasoning is right. `math-verify`
reads and compares (numbers, fractions, percentages, units, thousands separators, LaTeX and its expressions); here is
only what it doesn't know of GSM8K and of prices. In this order an answer is

1. what follows the last `####` of a line, if that is a number (GSM8K, arXiv 2110.14168),
2. what stands in `\boxed{}`, or follows "the answer is" or the like,
3. the last number or formula of the text.

`stated_answer` is stricter: an answer that the text calls its answer (1 and 2), or a text that is a formula alone. What
is merely the last number of a sentence ("so it is $12 for 3 days") is a guess there, and no answer.

Not graded: numbers in words ("forty-two", "1 million"), words and choices ("yes", "B"), a list where one number is
wanted, conversions of a unit ("3 feet" for "36 inches"); a percentage equals both its number and its share (25 % is 25
and is 0.25). A text without a number has no answer, which is wrong and no vote.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sympy  # type: ignore[import-untyped]
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

# As math-verify gives it: readings of one answer, none where there is no answer.
Answer = list[Any]

# A heading ("#### 1. Count the eggs") is no answer: nothing but units may follow the number.
_MARKED = re.compile(r"^####[ \t]*(-?[ \t]*\\?[$£€]?[ \t]*[\d.,]*\d(?:/\d+)?)(?![.:)][ \t]*\S)[^\d\n]*$", re.MULTILINE)
_MIXED = re.compile(r"(?<![\d./,])(\d+)[ \t]+(\d+)/(\d+)(?![\d/])")  # 5 1/2
_WORD = re.compile(r"(?<!\\)\b[^\W\d_]{2,}")  # a command of LaTeX is none
_STATED = (
    LatexExtractionConfig(try_extract_without_anchor=False),
    ExprExtractionConfig(try_extract_without_anchor=False),
)
_ANYWHERE = (LatexExtractionConfig(), ExprExtractionConfig())
_READ_CHARS = 8_000  # of the end of a text: patterns take long over more
_GREATEST_EXPONENT = 1_000  # sympy would work out a tower of powers for hours
_LIMIT_S = 5
# Once for each run without a limit, which is only off the main thread and where nothing takes long (see above).
logging.getLogger("math_verify").setLevel(logging.ERROR)


def final_answer(text: str) -> Answer:
    r"""The answer of a solution; empty where it gives none.

    >>> final_answer("She sells 9 eggs at $2.\n#### 18")[0]
    18
    >>> final_answer("I do not know.")
    []
    """
    return _read(text[-_READ_CHARS:], _ANYWHERE)


def stated_answer(text: str) -> Answer:
    """What a text calls its answer, or what it is if it is a formula alone; empty where it does neither.

    >>> stated_answer("The answer is 12. I counted 3 times.")[0]
    12
    >>> stated_answer("So it is $12 for 3 days.")
    []
    >>> stated_answer("= 78")[0]
    78
    """
    text = text[-_READ_CHARS:]
    if stated := _read(text, _STATED):
        # Where it found the place but can't read it ("**Answer: 42**"), it gives the text alone.
        return stated if not isinstance(stated[0], str) else _numeric(_read(stated[0], _ANYWHERE))
    return [] if _WORD.search(text) else _numeric(_read(text, _ANYWHERE))


def equal(reference: Answer, answer: Answer) -> bool:
    """Whether both are the same answer; decimals are compared to six digits.

    What can't be compared within five seconds, or holds a power above 1,000, is not equal.
    """
    if not all(map(_bounded, (*reference, *answer))):
        return False
    return bool(verify(reference, answer, timeout_seconds=_limit_s()))


def votes(answers: Sequence[Answer]) -> list[int]:
    """For each the number of the first answer that it equals, its own if there is none; -1 for no answer."""
    voted: list[int] = []
    for i, answer in enumerate(answers):
        first = (j for j in range(i) if voted[j] == j and equal(answers[j], answer))
        voted.append(next(first, i) if answer else -1)
    return voted


def answer_text(answer: Answer) -> str:
    """An answer as a sentence can hold it: numbers without separators or needless decimals, other things as found.

    >>> answer_text(final_answer("It costs $1,234.00."))
    '1234'
    >>> answer_text(final_answer("The answer is 2.50."))
    '2.50'
    """
    value, *found = answer
    if isinstance(value, sympy.Number) and float(value).is_integer():
        return str(int(value))
    return str(found[0] if found else value)


@lru_cache(maxsize=2**14)
def _read(text: str, targets: Any) -> Answer:
    text = text.replace("\N{MINUS SIGN}", "-")
    if marked := _MARKED.findall(text):
        text, targets = marked[-1], _ANYWHERE
    # Models escape a price's dollar sign, which math-verify takes for the start of a formula.
    text = _MIXED.sub(_to_improper, text.replace("\\$", ""))
    found: Answer = parse(text, targets, parsing_timeout=_limit_s())
    return found


def _numeric(answer: Answer) -> Answer:
    return [] if answer and isinstance(answer[0], str) else answer


def _limit_s() -> int | None:
    """math-verify's limits are alarms, which only the main thread can set."""
    return _LIMIT_S if threading.current_thread() is threading.main_thread() else None


def _bounded(value: Any) -> bool:
    powers = value.atoms(sympy.Pow) if isinstance(value, sympy.Basic) else ()
    return all(not p.exp.has(sympy.Pow) and not (p.exp.is_number and abs(p.exp) > _GREATEST_EXPONENT) for p in powers)


def _to_improper(mixed: re.Match[str]) -> str:
    whole, part, parts = (int(group) for group in mixed.groups())
    return f"{whole * parts + part}/{parts}" if part < parts else mixed[0]
