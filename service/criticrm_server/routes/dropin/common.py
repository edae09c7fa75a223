"""What the drop-in routes share: options in the URL, keys in the URL, messages of others, all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from criticrm_client.chat_markers import UnknownTemplateError, find_template, split_conversation
from criticrm_client.schemas import CritiqueOptions, FailFastList, Item, Message, Result, WritingOptions
from criticrm_client.score_many import evenly

from ...errors import InvalidField, LimitExceeded
from ...schemas import ScoreMany
from ...state import Service
from ..guarded import GuardedRoute
from ..work import score_all

_LOST = "Must be empty: put tool calls into `content`, or they would be lost."
_SEARCHED = 1_000_000  # characters, at worst 0.1 s
_CHARACTERS_A_TOKEN = 8  # twice as many as in English
_NOT_GIVEN = WritingOptions().model_dump()
NO_PROMPT = Message(role="user", content="")


class DropInRoute(GuardedRoute):
    """Accepts the API key in the URL too: these callers can't send a header."""

    basic_auth = True
    query_options = True


class Foreign(BaseModel):
    """A body whose schema is not ours: its known fields are strict, others are let by."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


def text_or_list(value: Any) -> str:
    """The tag of a field that holds one or the other: a fault is then told once, by the field's own name."""
    return "<list>" if isinstance(value, list) else "<str>"


class TextPart(Foreign):
    """A text part of a message's content, as in OpenAI's APIs. The critic reads text only."""

    type: Literal["text", "input_text", "output_text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("<str>")] | Annotated[FailFastList[TextPart], Tag("<list>")], Discriminator(text_or_list)
]


class HasText(Protocol):
    """A part of a message's content."""

    @property
    def text(self) -> str: ...


def join_parts(content: str | Sequence[HasText]) -> str:
    """The text of a message's content."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


class MessageFields(Foreign):
    """A message but for its content."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    # What a message may say beside its content is refused by name, where it says something.
    tool_calls: FailFastList[None] | None = Field(None, max_length=0, description=_LOST)
    function_call: None = Field(None, description=_LOST)
    images: FailFastList[None] | None = Field(
        None, max_length=0, description="Must be empty: the critic reads text only."
    )
    audio: None = Field(None, description="Must be empty: the critic reads text only.")

    def turn(self, content: str) -> Message:
        """The message with this text as its content."""
        return Message(role="system" if self.role == "developer" else self.role, content=content)


class ForeignMessage(MessageFields):
    content: Content

    def message(self) -> Message:
        return self.turn(join_parts(self.content))


class QueryOptions(WritingOptions):
    """The options of `/score`, as query parameters: text is turned into numbers, unknown names are refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=False)

    critique: (
        Annotated[
            Annotated[bool, Tag("<bool>")] | Annotated[Literal["auto"], Tag("<auto>")],
            Discriminator(lambda value: "<auto>" if value == "auto" else "<bool>"),
        ]
        | None
    ) = Field(
        None,
        description="false: no critique is written, and the score is the direct score; faster, less accurate. auto: "
        "critiques where they matter, by the checkpoint's own setting. Default: true, or false for a model that writes "
        "no critiques (an imported scalar).",
    )
    on_overflow: Literal["error", "truncate"] = Field(
        "error", description="What happens to a text that is too long: it is an error, or it is truncated."
    )
    normalize: bool = Field(
        False, description="Standardise scores with the mean and the standard deviation in the checkpoint's manifest."
    )

    @model_validator(mode="after")
    def _critiques_are_written(self) -> Self:
        told = (self.max_tokens, self.temperature, self.seed)
        if self.critique in (False, "auto") and (self.n > 1 or any(value is not None for value in told)):
            raise PydanticCustomError(
                "no_critique", "n, max_tokens, temperature and seed have no effect beside critique=false or auto"
            )
        return self


class PromptResponse(NamedTuple):
    """A conversation, and the response to be scored."""

    conversation: list[Message]
    response: str
    criteria: str | None = None
    reference: str | None = None


def pair_of_messages(messages: list[Message], field: str) -> PromptResponse:
    """The last message is the response.

    Raises:
        InvalidField: it is not the assistant's.
    """
    *conversation, last = messages
    if last["role"] != "assistant":
        raise InvalidField(
            field, f"ends with a turn of the {last['role']}; the assistant's last turn is what is scored"
        )
    return PromptResponse(conversation, last["content"])


def going_on(conversation: list[Message], response: str) -> PromptResponse:
    """A response, and a conversation that may have begun the assistant's turn: the response goes on from there."""
    if conversation and conversation[-1]["role"] == "assistant":
        *conversation, begun = conversation
        response = begun["content"] + response
    return PromptResponse(conversation, response)


def pair_of_text(text: str, field: str) -> PromptResponse:
    """A whole conversation in a policy's template.

    Without known markers nothing says where a response begins: all of it is scored, as a response to an empty message.

    Raises:
        InvalidField: the last turn is not the assistant's, or the template is not known.
    """
    with known_template(field):
        turns = split_conversation(text)
    if find_template(text) is None:
        return PromptResponse([NO_PROMPT], turns[0]["content"])
    return pair_of_messages(turns, field)


@contextmanager
def known_template(field: str) -> Iterator[None]:
    """Raises InvalidField, with the field's name, where a text is in a template that is not known."""
    try:
        yield
    except UnknownTemplateError as error:
        raise InvalidField(field, str(error)) from error


def check_texts(request: Request, field: str, texts: Sequence[str]) -> None:
    """Before any of them is taken apart: how many there are, and how long each is.

    Raises:
        LimitExceeded
    """
    service: Service = request.app.state.service
    if len(texts) > service.settings.max_items:
        raise LimitExceeded(field, len(texts), service.settings.max_items, "texts")
    for i, text in enumerate(texts):
        check_text(request, f"{field}[{i}]", text)


def check_text(request: Request, field: str, text: str) -> None:
    """A text in which markers are looked for, which holds up everyone else.

    Raises:
        LimitExceeded
    """
    service: Service = request.app.state.service
    limit = max(_SEARCHED, _CHARACTERS_A_TOKEN * service.max_model_len)
    if len(text) > limit:
        raise LimitExceeded(field, len(text), limit, "characters")


async def score_pairs(request: Request, pairs: Iterable[PromptResponse], options: QueryOptions) -> list[Result]:
    """A result with a score for each pair, in their order.

    Args:
        pairs: made while they are read.

    Raises:
        LimitExceeded: more messages than a request may have.
        What `score_all` does; one pair that can't be scored fails them all, for these callers read numbers only.
    """
    groups: list[tuple[tuple[list[Message], str | None, str | None], list[str]]] = []
    settings = request.app.state.settings
    limit = settings.max_messages
    messages = 0
    for conversation, response, criteria, reference in pairs:
        messages += len(conversation)
        if messages > limit:  # before the rest is taken apart
            raise LimitExceeded("body", messages, limit, "messages and more")
        judged = (conversation or [NO_PROMPT], criteria, reference)
        # Close is what is close to another response to the same prompt.
        if options.critique == "auto" and groups and groups[-1][0] == judged:
            groups[-1][1].append(response)
        else:
            groups.append((judged, [response]))
        await asyncio.sleep(0)  # long texts must not hold up everyone else
    items: list[Item] = []
    for (prompt, criteria, reference), responses in groups:
        for some in evenly(responses, settings.max_responses):
            items.append(Item(prompt=prompt, responses=some, criteria=criteria, reference=reference))
        await asyncio.sleep(0)
    if not items:
        return []
    body = ScoreMany(
        items=items,
        critique=_critique_field(options),
        on_overflow=options.on_overflow,
        normalize=options.normalize,
    )
    return await score_all(request, body, partial=False)


def _critique_field(options: QueryOptions) -> CritiqueOptions | bool | Literal["auto"] | None:
    """As `/score` takes it; None, where nothing is said of critiques, leaves it to the model."""
    told = {name: getattr(options, name) for name in WritingOptions.model_fields}
    if options.critique in (False, "auto") or (options.critique is None and told == _NOT_GIVEN):
        return options.critique
    return CritiqueOptions(**told)


def score_of(result: Result) -> float:
    return result.reward  # a result without one failed the request


def direct_score_of(result: Result) -> float:
    assert result.direct_score is not None
    return result.direct_score
