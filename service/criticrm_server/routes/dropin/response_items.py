"""Items of OpenAI's Responses API, as turns of a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from criticrm_client.schemas import FailFastList, Message

from .common import Foreign, MessageFields, PromptResponse, TextPart, join_parts, text_or_list


class FunctionCall(Foreign):
    """A tool call; becomes an assistant's turn with the call as JSON."""

    type: Literal["function_call"]
    name: str
    arguments: str

    def message(self) -> Message:
        call = json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)
        return Message(role="assistant", content=call)


class FunctionOutput(Foreign):
    """A tool's output; becomes a tool's turn."""

    type: Literal["function_call_output"]
    output: str

    def message(self) -> Message:
        return Message(role="tool", content=self.output)


class Reasoning(Foreign):
    """Ignored: the answer is judged, not the reasoning."""

    type: Literal["reasoning"]

    def message(self) -> None:
        return None


class RefusalPart(Foreign):
    """A policy's refusal to answer, which is judged as its answer."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


def _part_kind(value: Any) -> str:
    return "<refusal>" if isinstance(value, dict) and value.get("type") == "refusal" else "<text>"


Parts = FailFastList[
    Annotated[Annotated[TextPart, Tag("<text>")] | Annotated[RefusalPart, Tag("<refusal>")], Discriminator(_part_kind)]
]


class ItemMessage(MessageFields):
    type: Literal["message"] | None = None
    content: Annotated[Annotated[str, Tag("<str>")] | Annotated[Parts, Tag("<list>")], Discriminator(text_or_list)]

    def message(self) -> Message:
        return self.turn(join_parts(self.content))


def _item_kind(value: Any) -> str:
    kind = value.get("type", "message") if isinstance(value, dict) else "message"
    return f"<{kind}>" if kind in ("function_call", "function_call_output", "reasoning") else "<message>"


ResponseItem = Annotated[
    Annotated[ItemMessage, Tag("<message>")]
    | Annotated[FunctionCall, Tag("<function_call>")]
    | Annotated[FunctionOutput, Tag("<function_call_output>")]
    | Annotated[Reasoning, Tag("<reasoning>")],
    Discriminator(_item_kind),
]


def messages_of(items: Iterable[ItemMessage | FunctionCall | FunctionOutput | Reasoning]) -> list[Message]:
    """The items as turns, without reasoning."""
    return [message for item in items if (message := item.message()) is not None]


def pair_of_output(
    conversation: list[Message], output: Iterable[ItemMessage | FunctionCall | FunctionOutput | Reasoning]
) -> PromptResponse:
    """The output's last message is the response, after its earlier items.

    An output that does not end with a message is scored as an empty response.
    """
    done = messages_of(output)
    if done and done[-1]["role"] == "assistant":
        return PromptResponse(conversation + done[:-1], done[-1]["content"])
    return PromptResponse(conversation + done, "")
