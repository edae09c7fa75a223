"""`POST /classify` in vLLM's shape, for verl's reward loop and whatever else reads scores from a vLLM server.

As vLLM 0.32 has it (vllm/entrypoints/pooling/classify/protocol.py), for a model with one label. verl sends one
conversation a request, in the *reward model's* chat template, and reads `data[-1].probs[-1]`
(verl/experimental/reward_loop/reward_loop.py, `compute_score_disrm`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Request
from pydantic import BaseModel, Discriminator, Field, Tag

from criticrm_client.probability import sigmoid
from criticrm_client.schemas import FailFastList

from ...results import total_usage
from ...state import Service
from ..work import ERRORS
from .common import (
    DropInRoute,
    Foreign,
    ForeignMessage,
    PromptResponse,
    QueryOptions,
    check_text,
    check_texts,
    pair_of_messages,
    pair_of_text,
    score_of,
    score_pairs,
    text_or_list,
)

router = APIRouter(route_class=DropInRoute)


class _Classify(Foreign):
    model: Any = None
    use_activation: bool | None = Field(
        None, description="false: the reward itself. Else its sigmoid, as vLLM has it for a single label."
    )
    activation: bool | None = Field(None, description="The name of `use_activation` before vLLM 0.11.2.")

    @property
    def activated(self) -> bool:
        told = self.activation if self.use_activation is None else self.use_activation
        return told is not False


class ClassifyText(_Classify):
    """Conversations in a chat template."""

    input: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[FailFastList[str], Field(min_length=1), Tag("<list>")],
        Discriminator(text_or_list),
    ]

    def pairs(self, request: Request) -> Iterable[PromptResponse]:
        if isinstance(self.input, str):
            check_text(request, "input", self.input)
            return [pair_of_text(self.input, "input")]
        check_texts(request, "input", self.input)
        return (pair_of_text(text, f"input[{i}]") for i, text in enumerate(self.input))


class ClassifyChat(_Classify):
    """One conversation, as messages."""

    messages: FailFastList[ForeignMessage] = Field(min_length=1)

    def pairs(self, _: Request) -> Iterable[PromptResponse]:
        return [pair_of_messages([message.message() for message in self.messages], "messages")]


ClassifyRequest = Annotated[
    Annotated[ClassifyText, Tag("<text>")] | Annotated[ClassifyChat, Tag("<chat>")],
    Discriminator(lambda value: "<chat>" if isinstance(value, dict) and "messages" in value else "<text>"),
]


class Classification(BaseModel):
    index: int
    label: str = "LABEL_0"  # what transformers calls the label of a model whose labels have no names
    probs: list[float] = Field(description="One number.")
    num_classes: Literal[1] = 1
    warnings: list[str] = Field(description="As in `/score`; vLLM has no such field.")


class ClassifyUsage(BaseModel):
    """`completion_tokens` are the critiques'."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ClassifyResponse(BaseModel):
    id: str
    object: Literal["list"] = "list"
    created: int = Field(description="Unix time, in seconds.")
    model: str
    data: list[Classification]
    usage: ClassifyUsage


@router.post("/classify", responses=ERRORS, summary="vLLM's classification API (verl)")
async def classify(
    request: Request, body: Annotated[ClassifyRequest, Body()], options: Annotated[QueryOptions, Query()]
) -> ClassifyResponse:
    """Score the last assistant's turn of each conversation.

    `probs` holds the reward with `use_activation: false`. Otherwise it holds a probability: the reward's sigmoid,
    which is that of beating a response of reward 0 (Bradley-Terry).
    """
    service: Service = request.app.state.service
    results = await score_pairs(request, body.pairs(request), options)
    scores = [score_of(result) for result in results]
    usage = total_usage(results)
    return ClassifyResponse(
        id=request.scope["request_id"],
        created=int(time.time()),
        model=service.model_name,
        data=[
            Classification(index=i, probs=[sigmoid(score) if body.activated else score], warnings=results[i].warnings)
            for i, score in enumerate(scores)
        ],
        usage=ClassifyUsage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.critique_tokens,
            total_tokens=usage.prompt_tokens + usage.critique_tokens,
        ),
    )
