"""`POST /v1/chat/completions`, for frameworks that ask an LLM judge over OpenAI's API.

Among them verifiers (`JudgeRubric`, and the judge `reference` of its v1), verl's recipe genrm_remote, SkyRL's and
rllm's judges, and Gym's genrm_model. They send one judge's prompt, or a conversation, and parse a verdict from
`choices[0].message.content`. That content is the verdict alone: a critique quotes what the policy wrote, and no quote
may be parsed as a verdict. The critique is `reasoning_content`, as vLLM names what a model wrote before its answer.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from criticrm_client.probability import sigmoid
from criticrm_client.schemas import FailFastList, Result

from ...errors import InvalidField
from ...state import Service
from ..work import ERRORS
from .common import (
    DropInRoute,
    Foreign,
    ForeignMessage,
    PromptResponse,
    QueryOptions,
    check_text,
    join_parts,
    pair_of_messages,
    score_of,
    score_pairs,
)
from .judge_prompts import Verdict, split_judge_prompt
from .pairwise import ComparedMessage, MessageOrCompared, comparison_of, verdict_of_pair
from .usage import TokenUsage, usage_of

router = APIRouter(route_class=DropInRoute)

_YES_NO = ("yes", "no")
_BINARY = ("yes_no", "boxed", "final_score")


class JudgeOptions(QueryOptions):
    """The options of `/score`, and the form of the verdict."""

    verdict: Verdict | None = Field(
        None,
        description="'score': `<score>-0.25</score>`, the reward. 'probability': the same with the reward's sigmoid. "
        "'yes_no': yes or no. 'boxed': `\\boxed{True}` or False. 'final_score': `### Final Score: 1` or 0. Default: as "
        "the judge's prompt asks, 'score' for messages.",
    )
    threshold: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Rewards above it are a yes, for the verdicts that are yes or no. Default: 0, the reward that a "
        "sigmoid of 0.5 stands for; with normalize=true it is the mean.",
    )


class TextFormat(Foreign):
    type: Literal["text"]


class ChatCompletionRequest(Foreign):
    """A conversation that ends with the response, a judge's prompt, or a conversation and two responses to it.

    Sampling parameters are not read: the verdict has its form, and how critiques are written is in the URL.
    """

    messages: FailFastList[MessageOrCompared] = Field(min_length=1)
    model: Any = None
    n: Literal[1] | None = Field(None, description="One verdict. Several critiques: n in the URL.")
    stream: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    tools: FailFastList[None] | None = Field(None, max_length=0, description="Must be empty: no tool is called.")
    response_format: TextFormat | None = Field(
        None, description="The form of a verdict is chosen by verdict in the URL."
    )


class VerdictMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str = Field(description="The verdict.")
    reasoning_content: str | None = Field(
        description="The critiques, separated by an empty line. null with critique=false, and for a comparison."
    )


class Choice(BaseModel):
    index: Literal[0] = 0
    message: VerdictMessage
    logprobs: None = None
    finish_reason: Literal["stop"] = "stop"


class ChatCompletionResponse(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix time, in seconds.")
    model: str
    choices: list[Choice] = Field(description="One.")
    usage: TokenUsage
    scores: list[float] = Field(description="The rewards behind the verdict: one, or two of a comparison.")
    warnings: list[list[str]] = Field(description="Warnings of each response, as in `/score`.")


class Question(NamedTuple):
    """What a request asks to be judged.

    Attributes:
        pairs: one, or two of a comparison.
        verdict: in the form that its author reads; None for a comparison, which has one form.
        labels: of `yes_no`.
    """

    pairs: list[PromptResponse]
    verdict: Verdict | None
    labels: tuple[str, str] = _YES_NO


@router.post("/v1/chat/completions", responses=ERRORS, summary="LLM judges over OpenAI's API (verifiers, verl, SkyRL)")
async def chat_completions(
    request: Request, body: ChatCompletionRequest, options: Annotated[JudgeOptions, Query()]
) -> ChatCompletionResponse:
    """Score a response, and return a verdict as the content of the choice.

    Messages that end with the assistant's are a conversation with the response at its end. Messages with the roles
    `response_1` and `response_2` are a conversation and two responses to compare. Any others are a judge's prompt, of
    which the last message holds the question and the response: `<prompt>...</prompt><response>...</response>`, or the
    prompts of verifiers and verl.
    """
    service: Service = request.app.state.service
    question = _question(request, body.messages)
    _check_options(question, options)
    results = await score_pairs(request, question.pairs, options)
    # Of a comparison none are returned: Gym's genrm_model refuses an answer with reasoning.
    critiques = [] if question.verdict is None else [critique.text for critique in results[0].critiques]
    message = VerdictMessage(
        content=_content(question, results, options), reasoning_content="\n\n".join(critiques) if critiques else None
    )
    return ChatCompletionResponse(
        id=request.scope["request_id"],
        created=int(time.time()),
        model=service.model_name,
        choices=[Choice(message=message)],
        usage=usage_of(results),
        scores=[score_of(result) for result in results],
        warnings=[result.warnings for result in results],
    )


def _question(request: Request, messages: list[ForeignMessage | ComparedMessage]) -> Question:
    """Raises InvalidField, LimitExceeded."""
    comparison = comparison_of(messages, "messages")
    if comparison is not None:
        return Question(comparison.pairs(), None)
    turns = [message for message in messages if isinstance(message, ForeignMessage)]
    if turns[-1].role == "assistant":
        return Question([pair_of_messages([turn.message() for turn in turns], "messages")], "score")
    for i, turn in enumerate(turns[:-1]):
        if turn.role not in ("system", "developer"):
            raise InvalidField(
                "messages",
                f"ends with a turn of the {turns[-1].role}, after one of the {turn.role} (messages[{i}]): a "
                "conversation to be judged ends with the assistant's, and a judge's prompt is one message",
            )
    field, text = f"messages[{len(turns) - 1}].content", join_parts(turns[-1].content)
    check_text(request, field, text)
    judged = split_judge_prompt(text, field)
    asked = ForeignMessage(role="user", content=judged.question).message()
    return Question([PromptResponse([asked], judged.response)], judged.verdict, judged.labels)


def _check_options(question: Question, options: JudgeOptions) -> None:
    """Raises InvalidField for an option that would have no effect."""
    if question.verdict is None and options.verdict is not None:
        raise InvalidField("query.verdict", "a comparison of two responses has one form of verdict")
    verdict = options.verdict or question.verdict
    if options.threshold is not None and verdict not in _BINARY:
        raise InvalidField("query.threshold", f"is for the verdicts {', '.join(_BINARY)}, and this one is {verdict}")


def _content(question: Question, results: list[Result], options: JudgeOptions) -> str:
    verdict = options.verdict or question.verdict
    if verdict is None:
        return verdict_of_pair(*results)
    score = score_of(results[0])
    is_good = score > (options.threshold or 0.0)
    match verdict:
        case "score":
            return f"<score>{score!r}</score>"
        case "probability":
            return f"<score>{sigmoid(score)!r}</score>"
        case "yes_no":
            return question.labels[not is_good]
        case "boxed":
            return f"\\boxed{{{is_good}}}"
        case "final_score":
            return f"### Final Score: {int(is_good)}"
