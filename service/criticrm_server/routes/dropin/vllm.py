"""`/classify` in vLLM's shape, for verl's reward loop and whatever else reads scores from a vLLM server.

As vLLM 0.32 has it (vllm/entrypoints/pooling/classify/protocol.py), for a model with one label. verl sends one
conversation a request, in the *reward model's* chat template, and reads `data[-1].probs[-1]`
(verl/experimental/reward_loop/reward_loop.py, `compute_score_disrm`).
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, Field

from criticrm_client.probability import sigmoid
from criticrm_client.schemas import FailFastList

from ...state import Service
from .common import Foreign, ForeignMessage, PromptResponse, QueryOptions, pair_of_messages, score_of, score_pairs
from .inputs import TextsOrTokenIds, pairs_of_input
from .usage import TokenUsage, usage_of


class Classification(BaseModel):
    index: int
    label: str = "LABEL_0"  # what transformers calls the label of a model whose labels have no names
    probs: list[float] = Field(description="One number.")
    num_classes: Literal[1] = 1
    warnings: list[str] = Field(description="As in `/score`; vLLM has no such field.")


class ClassifyResponse(BaseModel):
    id: str
    object: Literal["list"] = "list"
    created: int = Field(description="Unix time, in seconds.")
    model: str
    data: list[Classification]
    usage: TokenUsage


class _Classify(Foreign):
    model: Any = None
    use_activation: bool | None = Field(
        None, description="false: the reward itself. Else its sigmoid, as vLLM has it for a single label."
    )
    activation: bool | None = Field(None, description="The name of `use_activation` before vLLM 0.11.2.")

    @property
    def activated(self) -> bool:
        requested = self.activation if self.use_activation is None else self.use_activation
        return requested is not False

    @abstractmethod
    def pairs(self, request: Request) -> Iterable[PromptResponse]: ...

    async def respond(self, request: Request, options: QueryOptions) -> ClassifyResponse:
        """Score each conversation. Raises what `score_pairs` does."""
        service: Service = request.app.state.service
        results = await score_pairs(request, self.pairs(request), options)
        scores = [score_of(result) for result in results]
        return ClassifyResponse(
            id=request.scope["request_id"],
            created=int(time.time()),
            model=service.model_name,
            data=[
                Classification(
                    index=i, probs=[sigmoid(score) if self.activated else score], warnings=results[i].warnings
                )
                for i, score in enumerate(scores)
            ],
            usage=usage_of(results),
        )


class ClassifyText(_Classify):
    """Conversations in a chat template."""

    input: TextsOrTokenIds

    def pairs(self, request: Request) -> Iterable[PromptResponse]:
        return pairs_of_input(request, self.input, "input")


class ClassifyChat(_Classify):
    """One conversation, as messages."""

    messages: FailFastList[ForeignMessage] = Field(min_length=1)

    def pairs(self, _: Request) -> Iterable[PromptResponse]:
        return [pair_of_messages([message.message() for message in self.messages], "messages")]
