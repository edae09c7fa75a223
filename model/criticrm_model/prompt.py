"""The one renderer: conversation + response -> the token ids a critique is written after.

The critique is asked for in the chat itself: the conversation, the response as the assistant's turn, a user
turn with the critique instruction, then the assistant's turn that the critique fills. Conversation and
response come first so that vLLM's prefix cache serves every response to one prompt.

Text from a caller never becomes a control token (docs/adr/0005). The template is rendered with a slot in
place of each content, so no content ever passes through Jinja; the template's pieces are tokenised with
control tokens, the contents without, and the ids are joined. Training, evaluation and serving all render here.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypedDict

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from .errors import ConversationError, PromptTooLong, UnsupportedModel

Role = Literal["system", "user", "assistant", "tool"]
# A template that prints today's date would make a reward change overnight; it gets this day instead.
_TEMPLATE_DATE = datetime.datetime(2024, 7, 26)
_CACHED_ROLES = 64  # turns of a conversation worth remembering; callers choose how many there are
# A slot stands between two separators that count as white space and that no template writes: a template that trims
# its contents loses them, and so tells us that it trims.
_EDGE = "\x1f"
_SLOT = re.compile(rf"({_EDGE}?)@@CRITICRM-SLOT-(\d+)@@({_EDGE}?)")


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids up to the reward position before any critique.

    Attributes:
        token_ids: `[prompt_len]`.
        truncated: tokens of the conversation or of the response were dropped to fit.
    """

    token_ids: list[int]
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Slot:
    index: int
    lstrip: bool
    rstrip: bool


class Renderer:
    """Renders for one tokenizer and one critique instruction; thread-safe.

    Raises:
        UnsupportedModel: no chat template, no fast tokenizer, or contents can't be kept from turning into
            control tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, critique_instruction: str) -> None:
        if not tokenizer.chat_template:
            raise UnsupportedModel("the tokenizer has no chat template; a Critic-RM base is an instruction-tuned model")
        if not tokenizer.is_fast:
            raise UnsupportedModel(
                "a fast tokenizer (tokenizer.json) is needed to keep contents free of control tokens"
            )
        self.tokenizer = tokenizer
        self.control_ids = _control_ids(tokenizer)
        self._contents = _content_tokenizer(tokenizer, self.control_ids)
        self._bos_id = _wanted_bos(tokenizer)
        self._pieces = lru_cache(maxsize=256)(self._render_roles)
        self._rendered_instruction = self._tokenize_content(critique_instruction)
        self._end_of_turn_id = self._find_end_of_turn()
        stops = {self._end_of_turn_id, tokenizer.eos_token_id} - {None}
        self.stop_token_ids: tuple[int, ...] = tuple(sorted(stops))

    def asking(self, critique_instruction: str) -> Renderer:
        """For the same tokenizer and another instruction, at the cost of tokenising that."""
        other = copy(self)
        other._rendered_instruction = self._tokenize_content(critique_instruction)
        return other

    def open(self, conversation: Sequence[Message]) -> OpenConversation:
        """Tokenise a conversation once, to be rendered with any number of responses.

        Raises:
            ConversationError: the chat template refuses these roles.
        """
        roles = (*(message["role"] for message in conversation), "assistant", "user")
        pieces = self._pieces(roles) if len(roles) <= _CACHED_ROLES else self._render_roles(roles)
        response, instruction = len(roles) - 2, len(roles) - 1
        question = max((i for i, role in enumerate(roles[:response]) if role == "user"), default=response - 1)
        parts: list[list[int]] = []
        contents: list[int] = []
        response_at, question_at, response_slot = -1, -1, None
        for piece in pieces:
            if isinstance(piece, _Slot):
                if piece.index == response:
                    response_at, response_slot = len(parts), piece
                    parts.append([])
                elif piece.index == instruction:
                    parts.append(self._rendered_instruction)
                else:
                    if piece.index == question:
                        question_at = len(parts)
                    else:
                        contents.append(len(parts))
                    parts.append(self._tokenize_content(_strip(conversation[piece.index]["content"], piece)))
            else:
                parts.append(piece)
        assert response_slot is not None
        return OpenConversation(self, parts, contents, question_at, response_at, response_slot)

    def render_conversation(self, messages: Sequence[Message]) -> list[int]:
        """Token ids, `[prompt_len]`, of a conversation that the model is to answer: nobody asks for a critique.

        Raises:
            ConversationError: the chat template refuses these roles.
        """
        ids: list[int] = []
        for piece in self._render_roles(tuple(message["role"] for message in messages), ours=0):
            if isinstance(piece, _Slot):
                ids += self._tokenize_content(_strip(messages[piece.index]["content"], piece))
            else:
                ids += piece
        return ids

    def tokenize_critique(self, text: str) -> list[int]:
        """A critique as the model is to write it: its tokens, then the token that ends an assistant's turn."""
        return [*self._tokenize_content(text), self._end_of_turn_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        """A critique's text, without its end-of-turn token."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()

    def _tokenize_content(self, text: str) -> list[int]:
        # Unlike `encode`, it lets other threads run meanwhile, and it leaves out the offsets.
        return self._contents.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def _render_roles(self, roles: tuple[Role, ...], ours: int = 2) -> tuple[list[int] | _Slot, ...]:
        """The template for this sequence of roles: tokenised pieces, and a slot for each content.

        Args:
            ours: how many of the last ones are not the caller's own.
        """
        messages = [{"role": role, "content": f"{_EDGE}@@CRITICRM-SLOT-{i}@@{_EDGE}"} for i, role in enumerate(roles)]
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # the critique is the reasoning; read by templates that know it (Qwen3)
                strftime_now=_TEMPLATE_DATE.strftime,
            )
        except TemplateError as error:
            turns = ", ".join(roles[: len(roles) - ours])
            followed = " followed by the response and the critique instruction" if ours else ""
            raise ConversationError(
                f"the model's chat template refuses the roles [{turns}]{followed}: {error}"
            ) from error
        text = str(rendered)
        pieces: list[list[int] | _Slot] = []
        seen: set[int] = set()
        end = 0
        for match in _SLOT.finditer(text):
            pieces.append(self._tokenize_piece(text[end : match.start()]))
            slot = _Slot(int(match[2]), lstrip=not match[1], rstrip=not match[3])
            pieces.append(slot)
            seen.add(slot.index)
            end = match.end()
        pieces.append(self._tokenize_piece(text[end:]))
        if missing := set(range(len(roles))) - seen:
            raise ConversationError(
                f"the model's chat template leaves out message {min(missing)} (role {roles[min(missing)]!r})"
            )
        if self._bos_id is not None and pieces[0][:1] != [self._bos_id]:  # type: ignore[index]  # the first is never a slot
            pieces.insert(0, [self._bos_id])
        return tuple(pieces)

    def _tokenize_piece(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text else []

    def _find_end_of_turn(self) -> int:
        """The control token that the template puts after an assistant's turn, or the tokenizer's EOS."""
        pieces = self._pieces(("user", "assistant", "user"))
        after_assistant = next(
            pieces[i + 1] for i, piece in enumerate(pieces) if isinstance(piece, _Slot) and piece.index == 1
        )
        if isinstance(after_assistant, list) and after_assistant[:1] and after_assistant[0] in self.control_ids:
            return after_assistant[0]
        if self.tokenizer.eos_token_id is None:
            raise UnsupportedModel(
                "the tokenizer has neither an EOS token nor an end-of-turn token: a critique can't end"
            )
        return int(self.tokenizer.eos_token_id)


class OpenConversation:
    """A tokenised conversation that awaits its responses. Made by `Renderer.open`."""

    __slots__ = ("_contents", "_length", "_parts", "_question_at", "_renderer", "_response_at", "_slot")

    def __init__(
        self,
        renderer: Renderer,
        parts: list[list[int]],
        contents: list[int],
        question_at: int,
        response_at: int,
        slot: _Slot,
    ) -> None:
        self._renderer = renderer
        self._parts = parts
        self._contents = contents  # of the other turns, oldest first
        self._question_at = question_at
        self._response_at = response_at
        self._slot = slot
        self._length = sum(map(len, parts))

    def render(
        self, response: str, *, max_model_len: int, max_critique_tokens: int, truncate: bool = False
    ) -> Rendered:
        """The prompt for one response. Lengths in tokens.

        With `truncate`, tokens are dropped in this order until it fits: the oldest of the conversation without its
        last user turn; the middle of that turn, which mostly asks at its beginning or at its end; the end of the
        response. The template's own tokens and the instruction always stay, so the turns keep their form.

        Raises:
            PromptTooLong: it does not fit and `truncate` is off, or the template alone does not fit.
        """
        parts = self._parts.copy()
        parts[self._response_at] = self._renderer._tokenize_content(_strip(response, self._slot))
        length = self._length + len(parts[self._response_at])
        limit = max_model_len - max_critique_tokens
        excess = length - limit
        if excess > 0:
            if not truncate:
                raise PromptTooLong(length, limit, max_critique_tokens)
            for i in self._contents:
                cut = min(excess, len(parts[i]))
                parts[i] = parts[i][cut:]
                excess -= cut
            if self._question_at >= 0:
                cut = min(excess, len(parts[self._question_at]))
                parts[self._question_at] = _without_middle(parts[self._question_at], cut)
                excess -= cut
            kept = parts[self._response_at]
            if excess > len(kept):
                raise PromptTooLong(length, limit, max_critique_tokens)
            if excess > 0:
                parts[self._response_at] = kept[: len(kept) - excess]
        return Rendered([token for part in parts for token in part], truncated=length > limit)


def _without_middle(token_ids: list[int], cut: int) -> list[int]:
    """`token_ids` without `cut` of them; of an odd number that stays, the beginning has one more than the end."""
    kept = len(token_ids) - cut
    return token_ids[: kept - kept // 2] + token_ids[len(token_ids) - kept // 2 :]


def _strip(text: str, slot: _Slot) -> str:
    if slot.lstrip:
        text = text.lstrip()
    return text.rstrip() if slot.rstrip else text


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Added tokens a content must never turn into: the special ones, and those the template itself writes.

    Other added tokens are ordinary text (Gemma adds runs of spaces and HTML tags) and stay available to contents.
    """
    template = str(tokenizer.chat_template)
    return frozenset(
        token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content.strip() and token.content in template)
    )


def _content_tokenizer(tokenizer: PreTrainedTokenizerBase, control_ids: frozenset[int]) -> Tokenizer:
    """The same tokenizer without its control tokens.

    `split_special_tokens` covers only the tokens marked special; `<think>` in Qwen's tokenizer, for one, is not.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    added = spec["added_tokens"] or []
    spec["added_tokens"] = [token for token in added if token["id"] not in control_ids]
    spec.update(post_processor=None, padding=None, truncation=None)
    contents = Tokenizer.from_str(json.dumps(spec))
    # A vocabulary that spells a control token by itself (ignore_merges, Unigram) would let one through.
    for token_id in control_ids:
        token = tokenizer.added_tokens_decoder[token_id].content
        if token_id in contents.encode(token, add_special_tokens=False).ids:
            raise UnsupportedModel(
                f"this tokenizer turns the text {token!r} into a control token; a caller could inject it"
            )
    return contents


def _wanted_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The BOS id, if this tokenizer puts one before a plain text."""
    with_special = tokenizer("x").input_ids
    bos_id = tokenizer.bos_token_id
    return bos_id if bos_id is not None and with_special[:1] == [bos_id] else None
