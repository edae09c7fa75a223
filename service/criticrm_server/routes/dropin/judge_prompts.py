"""Prompts of LLM judges, in which a text holds the question and the response: where each is, and which verdict is read.

A response is written by the policy that is trained, so nothing in it may change what is judged. A prompt's first marker
comes before the response, and decides which prompt it is; the response begins at the first of its opening markers and
ends at the last of its closing ones, so it is always judged whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...errors import InvalidField

Verdict = Literal["score", "probability", "yes_no", "boxed", "final_score"]

_LABELS = re.compile(r'"([^"\n]{1,40})" or "([^"\n]{1,40})" only')
_YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """Markers around the parts of a judge's prompt.

    Attributes:
        question: before the question.
        response: between the question and the response.
        reference: between the question and a reference answer, where there is one.
        after_reference: between the reference answer and the response.
        end: after the response.
        verdict: what is read from the answer to it.
        padded: where the question is on lines of its own, line breaks at the ends of parts belong to the prompt.
    """

    question: str
    response: re.Pattern[str]
    reference: re.Pattern[str] | None
    after_reference: re.Pattern[str]
    end: str
    verdict: Verdict
    padded: bool = False


_FENCED_RESPONSE = re.compile(r"\n```\n\nResponse:\n```\n")
_SOLUTION = re.compile(r"\n\n\[AI Solution\]\n\n")

JUDGE_PROMPTS = (
    # Our own: docs/frameworks/judges.md
    JudgePrompt(
        question="<prompt>",
        response=re.compile(r"</prompt>\s*+<response>"),
        reference=re.compile(r"</prompt>\s*+<reference>"),
        after_reference=re.compile(r"</reference>\s*+<response>"),
        end="</response>",
        verdict="score",
        padded=True,
    ),
    # verifiers/rubrics/judge_rubric.py, DEFAULT_JUDGE_PROMPT
    JudgePrompt(
        question="Question:\n```\n",
        response=_FENCED_RESPONSE,
        reference=re.compile(r"\n```\n\nGround truth answer:\n```\n"),
        after_reference=_FENCED_RESPONSE,
        end="\n```\n\nRespond either ",
        verdict="yes_no",
    ),
    # verifiers/v1/judges/reference.txt
    JudgePrompt(
        question="Task:\n```\n",
        response=_FENCED_RESPONSE,
        reference=re.compile(r"\n```\n\nReference answer:\n```\n"),
        after_reference=_FENCED_RESPONSE,
        end="\n```\n\nRespond either ",
        verdict="yes_no",
    ),
    # verl/recipe/genrm_remote/reward_function.py, GENRM_PROMPT_TEMPLATE
    JudgePrompt(
        question="[Math Problem]\n\n",
        response=_SOLUTION,
        reference=None,
        after_reference=_SOLUTION,
        end="\n\nYour task is to review and critique the solution",
        verdict="boxed",
    ),
)


class Judged(NamedTuple):
    """What a judge's prompt asks to be judged.

    Attributes:
        question: with the reference answer after it, where there is one.
        verdict: the form of the answer that the prompt's author reads.
        labels: of a positive and of a negative verdict, for `yes_no`.
    """

    question: str
    response: str
    verdict: Verdict
    labels: tuple[str, str]


def split_judge_prompt(text: str, field: str) -> Judged:
    """The question and the response in a judge's prompt.

    Raises:
        InvalidField: the text is none of the prompts that are known.
    """
    found = [(at, prompt) for prompt in JUDGE_PROMPTS if (at := text.find(prompt.question)) >= 0]
    if not found:
        raise InvalidField(
            field,
            "does not say which conversation is to be judged: send the conversation as messages that end with the "
            "assistant's, or a judge's prompt with <prompt>...</prompt> and <response>...</response>",
        )
    at, prompt = min(found, key=lambda one: one[0])
    judged = _split(text, at + len(prompt.question), prompt)
    if judged is None:
        raise InvalidField(
            field,
            f"holds {prompt.question!r}, as a judge's prompt that is known, but not what follows there: after the "
            f"question the response, and after that {prompt.end!r}",
        )
    return judged


def _split(text: str, start: int, prompt: JudgePrompt) -> Judged | None:
    end = text.rfind(prompt.end)
    if end < start:
        return None
    opening = closing = prompt.response.search(text, start, end)
    answer = ""
    reference = prompt.reference.search(text, start, opening.end() if opening else end) if prompt.reference else None
    if reference:
        closing, opening = reference, prompt.after_reference.search(text, reference.end(), end)
        answer = text[reference.end() : opening.start()] if opening else ""
    if opening is None or closing is None:
        return None
    parts = [text[start : closing.start()], answer, text[opening.end() : end]]
    if prompt.padded and parts[0][:1] == parts[0][-1:] == "\n":  # the question's ends: a policy has no say in them
        parts = [part.removeprefix("\n").removesuffix("\n") for part in parts]
    question, answer, response = parts
    if answer:
        question += f"\n\nReference answer:\n{answer}"
    labels = _LABELS.match(text, end + len(prompt.end))
    return Judged(question, response, prompt.verdict, (labels[1], labels[2]) if labels else _YES_NO)
