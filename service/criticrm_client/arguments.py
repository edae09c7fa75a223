"""What callers of the client may pass for a request, and what of it would be lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

from typing_extensions import TypedDict  # pydantic's own dependency; it takes no other before Python 3.12

from .schemas import Criterion, CritiqueOptions, Item, Message, SuppliedCritique

Prompt: TypeAlias = str | Sequence[Message]

# What a message may say beside its content, by the names that OpenAI, DeepSeek and others give it.
SAID_ELSEWHERE = (
    "tool_calls",
    "function_call",
    "reasoning_content",
    "reasoning",
    "thinking",
    "refusal",
    "audio",
    "images",
)


def lost_field(message: Any) -> str | None:
    """The field of a message that says something which no service reads; other fields, a name say, may be left out."""
    if not isinstance(message, Mapping):
        return None
    values = ((name, message.get(name)) for name in SAID_ELSEWHERE)
    return next(
        (name for name, value in values if value is not None and (not hasattr(value, "__len__") or len(value))), None
    )


ItemLike: TypeAlias = Item | Mapping[str, Any] | tuple[Prompt, Sequence[str]]


class Options(TypedDict, total=False):
    """The options of one request.

    critique: True writes one greedy critique a response; False scores before any: faster, less informed. If it is left
        out, it is True, or False for a model that writes no critiques (an imported scalar). "auto" writes critiques
        where they matter, by the checkpoint's own setting; CritiqueOptions(when="close", margin=1.0) by yours.
    on_overflow: "error": a prompt that is too long is an error. "truncate": it is cut, and its result has the
        status "truncated".
    normalize: standardise scores with the checkpoint's own mean and deviation.
    """

    critique: bool | Literal["auto"] | CritiqueOptions | Mapping[str, Any]
    on_overflow: Literal["error", "truncate"]
    normalize: bool


class ItemOptions(Options, total=False):
    """The options of one request and of its only prompt.

    critiques: that are there already, a list for each response: the reward is read after them, and none is written.
    criteria: what to judge the responses by. A list has a critique and a reward for each criterion, and the score is
        their weighted mean.
    reference: a correct answer, for the critic to read.
    """

    critiques: Sequence[Sequence[str | SuppliedCritique | Mapping[str, Any]]] | None
    criteria: str | Sequence[str | Criterion | Mapping[str, Any]] | None
    reference: str | None


def split_options(options: ItemOptions) -> tuple[dict[str, Any], Options]:
    """What belongs to the prompt's item, and what to the request."""
    own = ItemOptions.__annotations__.keys() - Options.__annotations__.keys()
    item = {name: value for name, value in options.items() if name in own}
    return item, cast(Options, {name: value for name, value in options.items() if name not in own})
