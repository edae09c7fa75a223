"""`input` of vLLM's and OpenAI's APIs: a text, several, token ids, or several lists of token ids.

Token ids are those of the served model's tokenizer. They are decoded, special tokens kept, and then read as a text is:
the critic's own prompt has an instruction beside the conversation, so ids can't go to the engine as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, cast

from fastapi import Request
from pydantic import Discriminator, Field, Tag

from criticrm_client.schemas import FailFastList

from ...errors import InvalidField, LimitExceeded
from ...state import Service
from .common import PromptResponse, check_text, check_texts, pair_of_text

_DECODED = 50_000  # token ids of one text, at worst 0.1 s

TokenIds = Annotated[FailFastList[Annotated[int, Field(ge=0)]], Field(min_length=1)]


def _kind(value: Any) -> str:
    if not isinstance(value, list):
        return "<str>"
    first = value[0] if value else ""
    if isinstance(first, list):
        return "<lists_of_ids>"
    return "<ids>" if isinstance(first, int) and not isinstance(first, bool) else "<list>"


TextsOrTokenIds = Annotated[
    Annotated[str, Tag("<str>")]
    | Annotated[FailFastList[str], Field(min_length=1), Tag("<list>")]
    | Annotated[TokenIds, Tag("<ids>")]
    | Annotated[FailFastList[TokenIds], Field(min_length=1), Tag("<lists_of_ids>")],
    Discriminator(_kind),
    Field(description="Conversations in a chat template, as texts or as token ids of the served model's tokenizer."),
]


def pairs_of_input(
    request: Request, value: str | list[str] | list[int] | list[list[int]], field: str
) -> Iterable[PromptResponse]:
    """The conversations of an input, each with the response to be scored; made while they are read.

    Raises:
        LimitExceeded: too many or too long, before any is taken apart.
        InvalidField: the last turn is not the assistant's, the template is not known, or an id is no token.
    """
    match _kind(value):
        case "<str>":
            text = cast(str, value)
            check_text(request, field, text)
            return [pair_of_text(text, field)]
        case "<list>":
            texts = cast(list[str], value)
            check_texts(request, field, texts)
            return (pair_of_text(text, f"{field}[{i}]") for i, text in enumerate(texts))
        case "<ids>":
            return _decoded_pairs(request, {field: cast(list[int], value)})
        case _:
            lists = cast(list[list[int]], value)
            limit = request.app.state.settings.max_items
            if len(lists) > limit:
                raise LimitExceeded(field, len(lists), limit, "lists of token ids")
            return _decoded_pairs(request, {f"{field}[{i}]": ids for i, ids in enumerate(lists)})


def _decoded_pairs(request: Request, lists: dict[str, list[int]]) -> Iterator[PromptResponse]:
    service: Service = request.app.state.service
    limit = max(_DECODED, 2 * service.max_model_len)
    for field, ids in lists.items():
        if len(ids) > limit:
            raise LimitExceeded(field, len(ids), limit, "token ids")
    return (pair_of_text(_decode(service, ids, field), field) for field, ids in lists.items())


def _decode(service: Service, ids: list[int], field: str) -> str:
    """Raises InvalidField: an id is no token of the served model's tokenizer."""
    tokenizer = service.checkpoint.tokenizer
    tokens = len(tokenizer)
    for i, token_id in enumerate(ids):
        if token_id >= tokens:
            raise InvalidField(
                f"{field}[{i}]", f"no token has the id {token_id}: the served model's tokenizer has {tokens} tokens"
            )
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
