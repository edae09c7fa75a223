"""Whether a critique calls its response right, read by a rule: its own answer against the response's.

Answers are read by math-verify (`answers`), never by their position in the text: the response's from the response, for
a critic may misquote it, and the critic's own from its comparison line.
"""

from __future__ import annotations

import re
from functools import cached_property

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from ..answers import Answer, answer_text, equal, final_answer, stated_answer

_PLACEHOLDERS = ("{own}", "{reply}", "{closing}")
# Two numbers with a word between them ("12 or 13", "5 apples for 3 children") are no one answer.
_SEVERAL = re.compile(r"\d[^\n]*?(?<!\\)\b[^\W\d_]{2,}[^\n]*?\d")


def _folded(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


class VerdictRule(BaseModel):
    """The line in which a critique compares its own answer with the reply's, as it is written and as it is read.

    Attributes:
        comparison: `{own}` and `{reply}`, each after a label that ends in a colon, then `{closing}`.
        right, wrong: the closing words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    comparison: str = "Mine: {own}. Reply: {reply}. {closing}"
    right: str = "Same answer: the reply is right."
    wrong: str = "Different answer: the reply is wrong."

    @field_validator("comparison")
    @classmethod
    def _one_line(cls, comparison: str) -> str:
        if [match for match in re.findall(r"\{\w*\}", comparison)] != list(_PLACEHOLDERS) or "\n" in comparison:
            raise ValueError(f"must be one line that holds {', '.join(_PLACEHOLDERS)}, in this order, once each")
        if not all(re.search(r"\w+: ?$", comparison.partition(slot)[0]) for slot in _PLACEHOLDERS[:2]):
            raise ValueError("a word and a colon must stand before {own} and before {reply}, as in 'Mine: {own}'")
        return comparison

    @field_validator("right", "wrong")
    @classmethod
    def _not_empty(cls, words: str) -> str:
        if not words.strip():
            raise ValueError("must not be empty")
        return words

    @model_validator(mode="after")
    def _check_distinct(self) -> VerdictRule:
        right, wrong = _folded(self.right), _folded(self.wrong)
        if right in wrong or wrong in right:
            raise ValueError("right and wrong must differ, and neither may be part of the other")
        return self

    def line(self, own: Answer, reply: Answer) -> str:
        """The comparison of two answers."""
        closing = self.right if equal(own, reply) else self.wrong
        return self.comparison.format(own=answer_text(own), reply=answer_text(reply), closing=closing)

    @cached_property
    def _written(self) -> re.Pattern[str]:
        own, reply = (re.findall(r"(\w+): ?$", self.comparison.partition(slot)[0])[0] for slot in _PLACEHOLDERS[:2])
        bold = r"[*_]*"
        return re.compile(
            rf"\b{own}{bold}:{bold}\s*(?P<own>[^\n]+?)[\s.,;]*{bold}\b{reply}{bold}:", flags=re.IGNORECASE
        )


DEFAULT_RULE = VerdictRule()


def own_answer(text: str, rule: VerdictRule = DEFAULT_RULE) -> Answer:
    """The answer that a critique calls its own; empty where it calls none, or several that differ, its own.

    >>> own_answer("3 * 9 = 27. Mine: 27. Reply: 34. Different answer: the reply is wrong.")[0]
    27
    >>> own_answer("The answer is 27.")
    []
    """
    written = [match["own"] for match in rule._written.finditer(text)]
    answers = [[] if _SEVERAL.search(own) else _one_answer(own) for own in written]
    if not answers or not all(answers) or not all(equal(answers[0], answer) for answer in answers[1:]):
        return []
    return answers[0]


def _one_answer(text: str) -> Answer:
    """A formula needs no dollar signs here; a letter alone is the instruction's own "N"."""
    return final_answer(text) or (final_answer(f"${text}$") if re.search(r"\d", text) else [])


def closing_verdict(text: str, rule: VerdictRule = DEFAULT_RULE) -> bool | None:
    """What the closing words say; None where they are missing, or say both."""
    right, wrong = (_folded(words) in _folded(text) for words in (rule.right, rule.wrong))
    return right if right != wrong else None


def verdict(text: str, response: str, rule: VerdictRule = DEFAULT_RULE) -> bool | None:
    """Whether a critique calls `response` right; None where that can't be read.

    By the critique's own answer and the response's, where both can be read: the closing words must not contradict them.
    Else by the closing words.

    >>> verdict("Mine: 27. Reply: 27. Same answer: the reply is right.", "The answer is 27.")
    True
    >>> verdict("Mine: 27. Reply: 34. Different answer: the reply is wrong.", "The answer is 34.")
    False
    >>> verdict("Mine: 27. Reply: 27. Same answer: the reply is right.", "The answer is 34.")  # misquoted
    >>> verdict("It looks fine.", "The answer is 34.")
    """
    said = closing_verdict(text, rule)
    own, reply = own_answer(text, rule), stated_answer(response)
    if not own and rule._written.search(text):
        return None  # several answers that differ, or none that can be read
    if not own or not reply:
        return said
    same = equal(own, reply)
    return same if said is None or said == same else None
