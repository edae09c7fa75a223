"""The one renderer: conversation + response -> the token ids a critique is written after.

The critique is asked for in the chat itself: the conversation, the response as the assistant's turn, a user
turn with the critique instruction, then the assistant's turn that the critique fills. Conversation and
response come first so that vLLM's prefix cache serves every response to one prompt.

Text from a caller never becomes a control token (docs/adr/0005). The template is rendered with a slot in
place of each content, so no content ever passes through Jinja; the template's pieces are tokenised with
control tokens, the contents without, and the ids are joined. Training, evaluation and serving all render here.
A reward that was trained elsewhere reads the conversation as its own template writes it (`Readout`, `plain`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import lru_cache, partial
from typing import Any, Literal, TypedDict

from jinja2 import TemplateError
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from .contents import ContentTokenizer, control_token_ids
from .conversation import Conversation, OpenConversation, Rendered, Slot
from .errors import ConversationError, UnsupportedModel
from .instruction import InstructionSlots
from .manifest import Readout
from .plain import PlainConversation, WholeTexts, apply_template, wanted_bos

__all__ = ["Conversation", "Message", "Rendered", "Renderer", "Role"]

Role = Literal["system", "user", "assistant", "tool"]
_CACHED_ROLES = 1024  # turns of a conversation worth remembering, some 20 kB; callers choose how many there are
_NAMED_ROLES = 8  # in a message
# A slot stands between two separators that count as white space and that no template writes: a template that trims
# its contents loses them, and so tells us that it trims.
_EDGE = "\x1f"
_SLOT = re.compile(rf"({_EDGE}?)@@CRITICRM-SLOT-(\d+)@@({_EDGE}?)")
# The critique is the reasoning; read by templates that know it (Qwen3).
_ASK = {"add_generation_prompt": True, "enable_thinking": False}


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


class Renderer:
    """Renders for one tokenizer and one critique instruction; thread-safe.

    Args:
        critique_instruction: None for a model that writes no critiques.
        readout: what is rendered. Default: a request for a critique.
        slots: how criteria and a reference follow the instruction.

    Raises:
        UnsupportedModel: no chat template, no fast tokenizer, or contents can't be kept from turning into
            control tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        critique_instruction: str | None,
        readout: Readout = Readout(),  # noqa: B008 - frozen
        slots: InstructionSlots | None = None,
    ) -> None:
        if not tokenizer.chat_template:
            raise UnsupportedModel("the tokenizer has no chat template; a Critic-RM base is an instruction-tuned model")
        if not tokenizer.is_fast:
            raise UnsupportedModel(
                "a fast tokenizer (tokenizer.json) is needed to keep contents free of control tokens"
            )
        self.tokenizer = tokenizer
        self.control_ids = control_token_ids(tokenizer)
        self._contents = ContentTokenizer(tokenizer, self.control_ids)
        self._bos_id = wanted_bos(tokenizer)
        self._readout = readout
        self._instruction = critique_instruction or ""
        self.slots = slots or InstructionSlots()
        self._texts = WholeTexts(tokenizer, self.control_ids, readout)
        ours, options = (2, _ASK) if readout.render == "critique" else (1, {})
        self._render_ours = partial(self._render_roles, ours=ours, options=options)
        self._pieces = lru_cache(maxsize=256)(self._render_ours)
        # A template writes the same few pieces between the turns of every conversation.
        self._tokenize_piece = lru_cache(maxsize=1024)(self._tokenize_template)
        self._rendered_instruction = self._contents.tokenize(self._instruction)
        self._end_of_turn_id = self._find_end_of_turn()
        stops = {self._end_of_turn_id, tokenizer.eos_token_id} - {None}
        self.stop_token_ids: tuple[int, ...] = tuple(sorted(stops))

    def with_instruction(self, critique_instruction: str) -> Renderer:
        """This renderer with another critique instruction, at the cost of tokenising that.

        The same renderer where the readout has no instruction.
        """
        if self._readout.render == "conversation":
            return self
        other = copy(self)
        other._rendered_instruction = self._contents.tokenize(critique_instruction)
        return other

    def with_criteria(self, criteria: str | None, reference: str | None) -> Renderer:
        """This renderer with these in its instruction; the same renderer where there are none."""
        if criteria is None and reference is None:
            return self
        return self.with_instruction(self.slots.fill(self._instruction, criteria, reference))

    def open(self, conversation: Sequence[Message], *, most_tokens: int | None = None) -> Conversation:
        """Tokenise a conversation once, to be rendered with any number of responses.

        Args:
            most_tokens: the longest prompt that will be asked for; texts that can't fit are then tokenised in part
                only, and a length that is reported may be too small. None tokenises all.

        Raises:
            ConversationError: the chat template refuses these roles.
        """
        _require_text(conversation)
        asks = self._readout.render == "critique"
        roles = (*(message["role"] for message in conversation), "assistant", *(("user",) if asks else ()))
        pieces = self._pieces(roles) if len(roles) <= _CACHED_ROLES else self._render_ours(roles)
        response = len(conversation)
        question = max((i for i, role in enumerate(roles[:response]) if role == "user"), default=response - 1)
        contents = [message["content"] for message in conversation]
        filled = [
            self._rendered_instruction if isinstance(piece, Slot) and piece.index > response else piece
            for piece in pieces
        ]
        if asks:
            return OpenConversation(self._contents, filled, contents, question, response, most_tokens)
        whole = [list(self._readout.before), *filled, list(self._readout.after)]
        return PlainConversation(
            self._texts,
            conversation,
            pieces,
            partial(OpenConversation, self._contents, whole, contents, question, response, most_tokens),
            most_tokens,
        )

    def render_conversation(self, messages: Sequence[Message]) -> list[int]:
        """Token ids, `[prompt_len]`, of a conversation that the model is to answer: nobody asks for a critique.

        Raises:
            ConversationError: the chat template refuses these roles.
        """
        _require_text(messages)
        ids: list[int] = []
        for piece in self._render_roles(tuple(message["role"] for message in messages), 0, _ASK):
            if isinstance(piece, Slot):
                ids += self._contents.tokenize(piece.strip(messages[piece.index]["content"]))
            else:
                ids += piece
        return ids

    def tokenize_critique(self, text: str) -> list[int]:
        """A critique as the model is to write it: its tokens, then the token that ends an assistant's turn."""
        return [*self._contents.tokenize(text), self._end_of_turn_id]

    def count_tokens(self, text: str, most: int) -> int:
        """The number of tokens of a text. A result above `most` is a lower bound: counting stops there."""
        ((token_ids, _),) = self._contents.tokenize_beginnings([text], most)
        return len(token_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """A critique's text, without its end-of-turn token."""
        return self._contents.decode(token_ids).strip()

    def offsets(self, token_ids: Sequence[int]) -> list[int]:
        """`[completion_len]`: where in the text that `decode` gives each token begins, in characters.

        A token that ends within a character (bytes of an emoji) begins where the character does.
        """
        whole = self._contents.decode(token_ids)
        leading, most = len(whole) - len(whole.lstrip()), len(whole.strip())
        decode_next = self.decoder()
        begins, begin = [], -leading
        for token_id in token_ids:
            begins.append(min(max(begin, 0), most))
            begin += len(decode_next(token_id))
        return begins

    def decoder(self) -> Callable[[int], str]:
        """For the tokens of one text in turn: what each adds to it, empty for one that ends within a character."""
        stream = DecodeStream(skip_special_tokens=True)
        return lambda token_id: stream.step(self.tokenizer.backend_tokenizer, token_id) or ""

    def _render_roles(
        self, roles: tuple[Role, ...], ours: int, options: Mapping[str, Any]
    ) -> tuple[list[int] | Slot, ...]:
        """The template for this sequence of roles: tokenised pieces, and a slot for each content.

        Args:
            ours: how many of the last ones are not the caller's own.
            options: of the template.
        """
        messages = [{"role": role, "content": f"{_EDGE}@@CRITICRM-SLOT-{i}@@{_EDGE}"} for i, role in enumerate(roles)]
        try:
            text = apply_template(self.tokenizer, messages, **options)
        except TemplateError as error:
            callers = roles[: len(roles) - ours]
            turns = ", ".join(callers[:_NAMED_ROLES])
            if len(callers) > _NAMED_ROLES:
                turns += f", and {len(callers) - _NAMED_ROLES} more"
            added = " and the critique instruction" if ours > 1 else ""
            followed = f" followed by the response{added}" if ours else ""
            raise ConversationError(
                f"the model's chat template refuses the roles [{turns}]{followed}: {error}"
            ) from error
        pieces: list[list[int] | Slot] = []
        seen: set[int] = set()
        end = 0
        for match in _SLOT.finditer(text):
            pieces.append(self._tokenize_piece(text[end : match.start()]))
            slot = _slot(int(match[2]), not match[1], not match[3])
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

    def _tokenize_template(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text else []

    def _find_end_of_turn(self) -> int:
        """The control token that the template puts after an assistant's turn, or the tokenizer's EOS."""
        asks = self._readout.render == "critique"
        pieces = self._pieces(("user", "assistant", "user") if asks else ("user", "assistant"))
        after_assistant = next(
            pieces[i + 1] for i, piece in enumerate(pieces) if isinstance(piece, Slot) and piece.index == 1
        )
        if isinstance(after_assistant, list) and after_assistant[:1] and after_assistant[0] in self.control_ids:
            return after_assistant[0]
        if self.tokenizer.eos_token_id is None:
            raise UnsupportedModel(
                "the tokenizer has neither an EOS token nor an end-of-turn token: a critique can't end"
            )
        return int(self.tokenizer.eos_token_id)


def _require_text(conversation: Sequence[Message]) -> None:
    """Refuse a call of a tool, which only a content could say.

    Its arguments are any JSON, and so have no slot that keeps them from turning into control tokens.

    Raises:
        ConversationError: there is such a call.
    """
    for index, message in enumerate(conversation):
        if len(message) > 2:
            said: Mapping[str, object] = message
            for name in ("tool_calls", "function_call"):
                if said.get(name):
                    raise ConversationError(f"message {index}: {name} would be lost; put the calls into the content")


@lru_cache(maxsize=4 * _CACHED_ROLES)
def _slot(index: int, lstrip: bool, rstrip: bool) -> Slot:
    return Slot(index, lstrip, rstrip)
