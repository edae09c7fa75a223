"""What the drop-in routes share: options in the URL, keys in the URL, messages of others, all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sized
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from ...chat_markers import find_template, split_turns, strip_end
from ...errors import InvalidField, LimitExceeded
from ...http import GuardedRoute
from ...schemas import ChatMessage, CritiqueOptions, Item, Result, ScoreMany
from ...settings import Settings
from ..work import score_all

NO_PROMPT = ChatMessage(role="user", content="")


class DropInRoute(GuardedRoute):
    """Takes a key from the URL too: these callers can't be told to send a header."""

    basic_auth = True


class Foreign(BaseModel):
    """A body whose schema is not ours: its known fields are strict, others are let by."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


def text_or_list(value: Any) -> str:
    """The tag of a field that holds one or the other: a fault is then told once, by the field's own name."""
    return "<list>" if isinstance(value, list) else "<str>"


class TextPart(Foreign):
    """Of a content in parts, as OpenAI's APIs have it. Only text: there is nothing else the critic could read."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class ForeignMessage(Foreign):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[list[TextPart], Tag("<list>")], Discriminator(text_or_list)
    ]
    tool_calls: list[None] | None = Field(
        None, max_length=0, description="None: a call would be lost, so put it into `content`."
    )

    def message(self) -> ChatMessage:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return ChatMessage(role="system" if self.role == "developer" else self.role, content=content)


class QueryOptions(CritiqueOptions):
    """The options of `/score`, as query parameters: text is turned into numbers, unknown names are refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=False)

    critique: bool = Field(True, description="false scores before any critique: faster, less informed.")
    on_overflow: Literal["error", "truncate"] = Field(
        "error", description="For a text that is too long: an error, or drop what does not fit."
    )
    normalize: bool = Field(False, description="Standardise scores with the checkpoint's own mean and deviation.")

    @model_validator(mode="after")
    def _critiques_are_written(self) -> Self:
        told = (self.max_tokens, self.temperature, self.seed)
        if not self.critique and (self.n > 1 or any(value is not None for value in told)):
            raise PydanticCustomError(
                "no_critique", "critique=false writes no critique: n, max_tokens, temperature, seed tell how to"
            )
        return self


class Pair(NamedTuple):
    """A conversation, and the response to be scored."""

    conversation: list[ChatMessage]
    response: str


def pair_of_messages(messages: list[ChatMessage], field: str) -> Pair:
    """The last message is the response.

    Raises:
        InvalidField: it is not the assistant's.
    """
    *conversation, last = messages
    if last.role != "assistant":
        raise InvalidField(field, f"ends with a turn of the {last.role}; the assistant's last turn is what is scored")
    return Pair(conversation, last.content)


def pair_of_text(text: str, field: str) -> Pair:
    """A whole conversation in a policy's template. Without known markers nothing says where a response begins: all of
    it is scored, as a response to an empty message.

    Raises:
        InvalidField: the last turn is not the assistant's.
    """
    if find_template(text) is None:
        return Pair([NO_PROMPT], strip_end(split_turns(text)[0].content))
    return pair_of_messages(split_turns(text), field)


def check_count(request: Request, field: str, texts: Sized) -> None:
    """Before any of them is taken apart.

    Raises:
        LimitExceeded
    """
    settings: Settings = request.app.state.settings
    if len(texts) > settings.max_items:
        raise LimitExceeded(field, len(texts), settings.max_items, "texts")


async def score_pairs(request: Request, pairs: Iterable[Pair], options: QueryOptions) -> list[Result]:
    """A result with a score for each pair, in their order.

    Args:
        pairs: made while they are read.

    Raises:
        What `score_all` does; one pair that can't be scored fails them all, for these callers read numbers only.
    """
    items = []
    for conversation, response in pairs:
        items.append(Item(prompt=conversation or [NO_PROMPT], responses=[response]))
        await asyncio.sleep(0)  # long texts must not hold up everyone else
    if not items:
        return []
    told = {name: getattr(options, name) for name in CritiqueOptions.model_fields}
    body = ScoreMany(
        items=items,
        critique=CritiqueOptions(**told) if options.critique else False,
        on_overflow=options.on_overflow,
        normalize=options.normalize,
    )
    return await score_all(request, body, partial=False)


def score_of(result: Result) -> float:
    assert result.score is not None  # a result without one failed the request
    return result.score


def direct_score_of(result: Result) -> float:
    assert result.direct_score is not None
    return result.direct_score
