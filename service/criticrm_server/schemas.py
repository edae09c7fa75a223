"""Bodies of `/score` that only the server reads and writes; what the client shares is `criticrm_client.schemas`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, cast

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from criticrm_client.error_body import ErrorInfo
from criticrm_client.schemas import FailFastList, Item, Scorable, ScoreEnvelope, ScoreOptions

# Of vLLM's `/score`, which measures how alike two texts are (vllm/entrypoints/pooling/scoring/protocol.py).
_VLLM_SCORE_FIELDS = ("text_1", "text_2", "queries", "documents", "data_1", "data_2")


class _ModelAndOptions(ScoreOptions):
    model: str | None = Field(None, max_length=4096, description="Name of the served model; any other name gets 404.")
    model_version: str | None = Field(
        None,
        max_length=256,
        description="Expected checkpoint version; if another is served, the request gets 409 before any work.",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_not_vllms_score_api(cls, value: Any) -> Any:
        field = next((name for name in _VLLM_SCORE_FIELDS if isinstance(value, dict) and name in value), None)
        if field is not None:
            other_api = PydanticCustomError(
                "other_api",
                "this is a field of vLLM's score API, which compares two texts; here a reward model scores responses: "
                'send {"prompt": "Why is the sky blue?", "responses": ["Air scatters blue light."]}',
            )
            fault = InitErrorDetails(type=other_api, loc=(field,), input=None)
            raise ValidationError.from_exception_data(cls.__name__, [fault])
        return value


class ScoreOne(_ModelAndOptions, Scorable):
    """One prompt."""

    id: ClassVar[None] = None

    @property
    def items(self) -> list[Item]:
        """It has what an item has."""
        return [cast("Item", self)]


class ScoreMany(_ModelAndOptions):
    """Many prompts."""

    items: FailFastList[Item] = Field(min_length=1)


ScoreRequest = Annotated[
    Annotated[ScoreOne, Tag("<one>")] | Annotated[ScoreMany, Tag("<many>")],
    Discriminator(lambda value: "<many>" if isinstance(value, dict) and "items" in value else "<one>"),
]


class StreamEnd(ScoreEnvelope):
    """The last line of an NDJSON stream; a stream without it is incomplete."""

    count: int = Field(description="Results sent before this line.")
    error: ErrorInfo | None = Field(description="Why results are missing; null if none is.")
