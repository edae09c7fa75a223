"""A tokenised conversation that awaits its responses, and what of it is dropped where it is too long."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from .contents import ContentTokenizer
from .errors import PromptTooLong


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
class Slot:
    """Where the template puts a message's content.

    Attributes:
        index: of the message.
        lstrip, rstrip: the template takes white space off this side.
    """

    index: int
    lstrip: bool
    rstrip: bool

    def strip(self, text: str) -> str:
        if self.lstrip:
            text = text.lstrip()
        return text.rstrip() if self.rstrip else text


class Conversation(ABC):
    """A rendered conversation that awaits its responses.

    Attributes:
        beginning: token ids that the prompts of its responses begin with.
    """

    __slots__ = ()
    beginning: list[int]

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
        rendered = self.render_all(
            [response], max_model_len=max_model_len, max_critique_tokens=max_critique_tokens, truncate=truncate
        )[0]
        if isinstance(rendered, PromptTooLong):
            raise rendered
        return rendered

    @abstractmethod
    def render_all(
        self, responses: Sequence[str], *, max_model_len: int, max_critique_tokens: int, truncate: bool = False
    ) -> list[Rendered | PromptTooLong]:
        """As `render`, for several responses at once; errors are returned."""


class OpenConversation(Conversation):
    """Made by `Renderer.open`.

    Args:
        pieces: the template's own token ids, the critique instruction's, and a slot for each content.
        contents: by message.
        question: the message that is kept longest, the last user turn.
        response: the index of the response's slot.
        most_tokens: no more than so many are tokenised of the conversation, and of each response; None is no bound.
    """

    __slots__ = (
        "_after",
        "_cut",
        "_length",
        "_most",
        "_others",
        "_parts",
        "_question_at",
        "_response_at",
        "_slot",
        "_tokenizer",
        "beginning",
    )

    def __init__(
        self,
        tokenizer: ContentTokenizer,
        pieces: Sequence[list[int] | Slot],
        contents: Sequence[str],
        question: int,
        response: int,
        most_tokens: int | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._most = most_tokens
        self._cut = False  # there are more tokens than were counted
        self._parts = [[] if isinstance(piece, Slot) else piece for piece in pieces]
        self._question_at = -1
        others: dict[int, str] = {}  # oldest first
        for at, slot in enumerate(pieces):
            if not isinstance(slot, Slot):
                continue
            if slot.index == response:
                self._response_at, self._slot = at, slot
                continue
            if slot.index == question:
                self._question_at = at
            others[at] = slot.strip(contents[slot.index])
        asked = others.pop(self._question_at, "")
        self._others = list(others)
        dropped = self._tokenize_question(asked) + self._tokenize_others(others)
        self.beginning = list(chain.from_iterable(self._parts[: self._response_at]))
        self._after = list(chain.from_iterable(self._parts[self._response_at + 1 :]))
        self._length = len(self.beginning) + len(self._after) + dropped

    def _tokenize_question(self, text: str) -> int:
        """Returns how many tokens were dropped, as far as they were counted."""
        ((ids, whole),) = self._tokenizer.tokenize_beginnings([text], self._most)
        if self._most is None or len(ids) <= self._most:
            kept = ids
        elif whole:
            kept = _without_middle(ids, len(ids) - self._most)
        else:
            self._cut = True
            end, _ = self._tokenizer.tokenize_end(text, self._most)
            kept = _without_middle(ids[: self._most] + end[-self._most :], self._most)
        if self._question_at >= 0:
            self._parts[self._question_at] = kept
        return len(ids) - len(kept)

    def _tokenize_others(self, texts: dict[int, str]) -> int:
        """Newest first: `_drop` drops the oldest first, so what is older than what fits need not be tokenised.

        Returns how many tokens were dropped, as far as they were counted.
        """
        dropped = 0
        room = self._most
        if room is not None and self._question_at >= 0:
            room -= len(self._parts[self._question_at])
        for at, text in reversed(texts.items()):
            if room == 0:
                self._cut = self._cut or bool(text)
                continue
            ids, whole = self._tokenizer.tokenize_end(text, room)
            self._cut = self._cut or not whole
            excess = 0 if room is None else max(0, len(ids) - room)
            self._parts[at] = ids[excess:]
            dropped += excess
            if room is not None:
                room -= len(ids) - excess
        return dropped

    def render_all(
        self, responses: Sequence[str], *, max_model_len: int, max_critique_tokens: int, truncate: bool = False
    ) -> list[Rendered | PromptTooLong]:
        limit = max_model_len - max_critique_tokens
        if self._cut and not truncate:
            return [PromptTooLong(self._length, limit, max_critique_tokens, at_least=True) for _ in responses]
        tokenized = self._tokenizer.tokenize_beginnings(list(map(self._slot.strip, responses)), self._most)
        return [self._fill(ids, whole, limit, max_critique_tokens, truncate) for ids, whole in tokenized]

    def _fill(
        self, ids: list[int], whole: bool, limit: int, max_critique_tokens: int, truncate: bool
    ) -> Rendered | PromptTooLong:
        length = self._length + len(ids)
        if length <= limit:
            return Rendered([*self.beginning, *ids, *self._after], truncated=False)
        too_long = PromptTooLong(length, limit, max_critique_tokens, at_least=self._cut or not whole)
        if not truncate:
            return too_long
        parts = self._parts.copy()
        parts[self._response_at] = ids
        if not self._drop(parts, sum(map(len, parts)) - limit):
            return too_long
        return Rendered(list(chain.from_iterable(parts)), truncated=True)

    def _drop(self, parts: list[list[int]], excess: int) -> bool:
        """Drop `excess` tokens; False if there are not as many to drop."""
        for i in self._others:
            cut = min(excess, len(parts[i]))
            parts[i] = parts[i][cut:]
            excess -= cut
        if self._question_at >= 0:
            cut = min(excess, len(parts[self._question_at]))
            parts[self._question_at] = _without_middle(parts[self._question_at], cut)
            excess -= cut
        kept = parts[self._response_at]
        if excess > len(kept):
            return False
        parts[self._response_at] = kept[: len(kept) - max(excess, 0)]
        return True


def _without_middle(token_ids: list[int], cut: int) -> list[int]:
    """`token_ids` without `cut` of them; of an odd number that stays, the beginning has one more than the end."""
    kept = len(token_ids) - cut
    return token_ids[: kept - kept // 2] + token_ids[len(token_ids) - kept // 2 :]
