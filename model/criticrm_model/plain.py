"""Conversations as a model's own chat template writes them, for rewards that were trained elsewhere.

Such a reward was trained on the template's text tokenised as a whole, where a content's first characters may share a
token with the template's last ones (docs/adr/0014). So that is what is rendered here; texts that spell a control token,
and those that are too long, are rendered piece by piece (`conversation`), where a text stays a text.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from .conversation import Conversation, OpenConversation, Rendered, Slot
from .errors import PromptTooLong
from .manifest import Readout

# A template that prints today's date would make a reward change overnight; it gets this day instead.
TEMPLATE_DATE = datetime.datetime(2024, 7, 26)
_CHARACTERS_A_TOKEN = 16  # of the longest text that is tokenised as a whole


def apply_template(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """The text of a conversation. Raises jinja2's TemplateError."""
    turns = [dict(message) for message in messages]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, strftime_now=TEMPLATE_DATE.strftime, **options))


def wanted_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The BOS id, if this tokenizer puts one before a plain text."""
    with_special = tokenizer("x").input_ids
    bos_id = tokenizer.bos_token_id
    return bos_id if bos_id is not None and with_special[:1] == [bos_id] else None


class WholeTexts:
    """Tokenises whole conversations; thread-safe.

    Args:
        control_ids: of the tokens that a content must not turn into.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control_ids: frozenset[int], readout: Readout) -> None:
        self._tokenizer = tokenizer
        self._control_ids = control_ids
        self._bos_id = wanted_bos(tokenizer)
        self.readout = readout
        spellings = sorted(tokenizer.added_tokens_decoder[token_id].content for token_id in control_ids)
        self._spelled = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    def spells_control_token(self, text: str) -> bool:
        return self._spelled is not None and self._spelled.search(text) is not None

    def tokenize(
        self, messages: Sequence[Mapping[str, Any]], pieces: Sequence[list[int] | Slot] | None = None
    ) -> list[int] | None:
        """Token ids of the template's text with its contents.

        Args:
            pieces: of the template alone.

        Returns:
            None where the template refuses a content, or the text has other control tokens than `pieces`.
        """
        try:
            text = apply_template(self._tokenizer, messages)
        except TemplateError:
            return None
        ids = list(self._tokenizer(text, add_special_tokens=False).input_ids)
        if self._bos_id is not None and ids[:1] != [self._bos_id]:
            ids.insert(0, self._bos_id)
        if pieces is not None and self._control(ids) != [
            i for piece in pieces if isinstance(piece, list) for i in self._control(piece)
        ]:
            return None
        return ids

    def _control(self, token_ids: Sequence[int]) -> list[int]:
        return [token_id for token_id in token_ids if token_id in self._control_ids]


class PlainConversation(Conversation):
    """A conversation in the model's own template, without a critique's request.

    Args:
        pieces: of the template with the response's turn.
        open_pieces: opens the same conversation piece by piece.
        most_tokens: longer ones are rendered piece by piece; None is no bound.
    """

    def __init__(
        self,
        texts: WholeTexts,
        messages: Sequence[Mapping[str, Any]],
        pieces: Sequence[list[int] | Slot],
        open_pieces: Callable[[], OpenConversation],
        most_tokens: int | None,
    ) -> None:
        self._texts = texts
        self._messages = list(messages)
        self._pieces = pieces
        self._open_pieces = open_pieces
        self._most = None if most_tokens is None else _CHARACTERS_A_TOKEN * most_tokens
        contents = [message["content"] for message in messages]
        self._characters = sum(map(len, contents))
        self._as_text = not any(map(texts.spells_control_token, contents))

    @cached_property
    def _piecewise(self) -> OpenConversation:
        return self._open_pieces()

    @cached_property
    def beginning(self) -> list[int]:  # type: ignore[override]  # computed when first asked for
        """As far as no response changes them."""
        ids = self._texts.tokenize(self._messages) if self._is_whole("") else None
        return self._piecewise.beginning if ids is None else ids

    def render_all(
        self, responses: Sequence[str], *, max_model_len: int, max_critique_tokens: int, truncate: bool = False
    ) -> list[Rendered | PromptTooLong]:
        rendered: list[Rendered | PromptTooLong] = []
        for response in responses:
            ids = self._tokenize(response)
            if ids is not None and len(ids) <= max_model_len - max_critique_tokens:
                rendered.append(Rendered(ids, truncated=False))
                continue
            (one,) = self._piecewise.render_all(
                [response], max_model_len=max_model_len, max_critique_tokens=max_critique_tokens, truncate=truncate
            )
            rendered.append(Rendered(self._read(one.token_ids), one.truncated) if isinstance(one, Rendered) else one)
        return rendered

    def _tokenize(self, response: str) -> list[int] | None:
        if not self._is_whole(response):
            return None
        ids = self._texts.tokenize([*self._messages, {"role": "assistant", "content": response}], self._pieces)
        readout = self._texts.readout
        return None if ids is None else self._read([*readout.before, *ids, *readout.after])

    def _is_whole(self, response: str) -> bool:
        short = self._most is None or self._characters + len(response) <= self._most
        return self._as_text and short and not self._texts.spells_control_token(response)

    def _read(self, token_ids: list[int]) -> list[int]:
        """Cut off what is not read at the end."""
        end = len(token_ids)
        while end > 1 and token_ids[end - 1] == self._texts.readout.unread:
            end -= 1
        return token_ids[:end]
