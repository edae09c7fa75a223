"""`POST /verify`, in the shape of a resources server of NeMo-Gym.

Gym's request is the row of the data set with `responses_create_params` and `response`, a Responses object of OpenAI's
(nemo_gym/base_resources_server.py); the answer is the same with a `reward`. An error carries the mark by which Gym
tells a judge that failed from a response that is bad (nemo_gym/judge.py).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    Tag,
    model_validator,
)
from pydantic_core import to_json

from criticrm_client.schemas import FailFastList, Message, Result

from ..work import ERRORS
from .common import DropInRoute, Foreign, QueryOptions, score_of, score_pairs, text_or_list
from .response_items import ResponseItem, messages_of, pair_of_output


class VerifyRoute(DropInRoute):
    error_fields: ClassVar[dict[str, str]] = {"_ng_failure_class": "judge_failed"}


router = APIRouter(route_class=VerifyRoute)


class CreateParams(Foreign):
    """The request that the policy answered."""

    input: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[FailFastList[ResponseItem], Tag("<list>")],
        Discriminator(text_or_list),
    ]
    instructions: str | None = None

    def messages(self) -> list[Message]:
        system = [Message(role="system", content=self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return [*system, Message(role="user", content=self.input)]
        return system + messages_of(self.input)


class ResponseObject(Foreign):
    output: FailFastList[ResponseItem]


class VerifyRequest(Foreign):
    responses_create_params: CreateParams
    response: ResponseObject
    _row: dict[str, Any] = PrivateAttr()  # as it was sent

    @model_validator(mode="wrap")
    @classmethod
    def _keep_row(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        request = validate(value)
        request._row = value
        return request

    def rewarded(self, result: Result) -> bytes:
        """The row with its reward, as JSON."""
        told: dict[str, Any] = {"reward": score_of(result), "reward_warnings": result.warnings}
        if result.rewards is not None:
            told["reward_components"] = {name: reward.score for name, reward in result.rewards.items()}
        return to_json(self._row | told)


class VerifyResponse(BaseModel):
    """Every field of the request, and the reward."""

    model_config = ConfigDict(extra="allow")

    responses_create_params: dict[str, Any]
    response: dict[str, Any]
    reward: float = Field(description="The score, in reward units: not bounded to [0, 1].")
    reward_components: dict[str, float] | None = Field(
        None, description="By name, of a model with several rewards, whose weighted sum `reward` is; else left out."
    )
    reward_warnings: list[str] = Field(description="The `warnings` of `/score`.")


@router.post("/verify", response_model=VerifyResponse, responses=ERRORS, summary="NeMo-Gym")
async def verify(request: Request, body: VerifyRequest, options: Annotated[QueryOptions, Query()]) -> Response:
    """Score the policy's last message, after its earlier turns and tool calls.

    An output that does not end with a message (but with a tool's output, or empty) is scored as an empty response.
    """
    pair = pair_of_output(body.responses_create_params.messages(), body.response.output)
    (result,) = await score_pairs(request, [pair], options)
    return Response(body.rewarded(result), media_type="application/json")
