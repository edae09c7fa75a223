"""From texts to the engine's jobs, without holding up the event loop."""

from __future__ import annotations

import asyncio
import os
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from criticrm_client.chat_templates import find_control_token
from criticrm_client.schemas import CritiqueOptions, Item, Message, Role
from criticrm_model import ConversationError, CriticRMError

from .engines.base import Job
from .errors import LimitExceeded

if TYPE_CHECKING:
    from criticrm_model.prompt import Conversation, Rendered, Renderer

T = TypeVar("T")
_INLINE = 4_000  # characters, about a millisecond of tokenising: a longer text is done beside the event loop
_LONG = 200_000  # characters: nobody shall wait for others' megabytes
_MESSAGE = 50  # characters that a message's own tokens count as


@dataclass(frozen=True, slots=True)
class _Opened:
    """A conversation, the number of its group, and whether a text of it holds what looks like a control token."""

    conversation: Conversation
    group: int
    control_tokens: bool


@dataclass(frozen=True, slots=True)
class SuppliedCritique:
    """A critique that a caller sent, its end included, and the job that reads the reward after it: one prefill."""

    token_ids: list[int]
    job: Job


@dataclass(frozen=True, slots=True)
class RenderedResponse:
    """One response: the job that scores it, or the error that kept it from being rendered.

    Attributes:
        supplied: critiques that the caller sent; `job` then reads the reward before them.
    """

    item_id: str | None
    index: int
    warnings: list[str]
    truncated: bool
    job: Job | None
    error: CriticRMError | None
    supplied: tuple[SuppliedCritique, ...] = ()

    def places(self, n: int) -> int:
        """How many sequences it is. Args: n: critiques that are written of a response."""
        return len(self.supplied) or n


class Rendering:
    """Renders the items of requests.

    Args:
        max_model_len: the longest prompt with its critique, in tokens.
    """

    def __init__(self, renderer: Renderer, max_model_len: int) -> None:
        self._renderer = renderer
        self._max_model_len = max_model_len
        # Tokenising lets other threads run, so one a core; texts that wait for one can be cancelled.
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="tokenize")
        self._long_texts = ThreadPoolExecutor(1, thread_name_prefix="tokenize-long")
        # Else tokenizers has one pool of threads for all of its callers: the event loop waited there for other texts.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._tokenized_inline = 0  # characters, since others had their turn
        # RLHF sends the responses to one prompt as requests of their own.
        self._open_short = lru_cache(maxsize=256)(self._open_turns)

    async def render(
        self, item: Item, critique: CritiqueOptions | None, max_tokens: int, *, truncate: bool
    ) -> list[RenderedResponse]:
        """A job for each response, or its error.

        Args:
            max_tokens: of a critique.
            truncate: drop what does not fit.
        """
        opened = await self._open(item.prompt)
        given = None if item.critiques is None else await self._tokenize_critiques(item.critiques)
        if given is not None:
            critique, max_tokens = None, max(len(ids) for several in given for ids in several)
        found: list[RenderedResponse] = []
        for group in _in_groups(item.responses):
            characters = sum(map(len, group)) + _MESSAGE * len(group)
            found += await self._beside_others(
                characters, self._render_group, item.id, len(found), group, opened, critique, max_tokens, truncate
            )
        return found if given is None else list(map(_with_critiques, found, given))

    async def _tokenize_critiques(self, critiques: list[list[str]]) -> list[list[list[int]]]:
        """`[responses][critiques]` token ids. Raises LimitExceeded: one alone is longer than the engine takes."""
        found: list[list[list[int]]] = []
        for k, several in enumerate(critiques):
            characters = sum(map(len, several)) + _MESSAGE * len(several)
            found.append(await self._beside_others(characters, list, map(self._renderer.tokenize_critique, several)))
            if (longest := max(map(len, found[-1]))) >= self._max_model_len:
                raise LimitExceeded(f"critiques[{k}]", longest, self._max_model_len - 1, "tokens in a critique")
        return found

    async def _beside_others(self, characters: int, tokenize: Callable[..., T], *arguments: Any) -> T:
        """Call `tokenize`, which takes so many characters, without holding up other requests."""
        if characters > _INLINE:
            threads = self._threads if characters <= _LONG else self._long_texts
            return await asyncio.get_running_loop().run_in_executor(threads, tokenize, *arguments)
        self._tokenized_inline += characters
        if self._tokenized_inline > _INLINE:
            self._tokenized_inline = characters
            await asyncio.sleep(0)
        return tokenize(*arguments)

    async def _open(self, prompt: str | list[Message]) -> _Opened | ConversationError:
        turns = prompt if isinstance(prompt, str) else tuple((turn["role"], turn["content"]) for turn in prompt)
        texts = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
        characters = sum(map(len, texts)) + _MESSAGE * len(texts)
        open_turns = self._open_short if characters <= _INLINE else self._open_turns
        try:
            return await self._beside_others(characters, open_turns, turns)
        except ConversationError as error:
            return error

    def _open_turns(self, turns: str | tuple[tuple[Role, str], ...]) -> _Opened:
        messages: list[Message] = (
            [{"role": "user", "content": turns}]
            if isinstance(turns, str)
            else [{"role": role, "content": content} for role, content in turns]
        )
        opened = self._renderer.open(messages, most_tokens=self._max_model_len)
        control_tokens = any(find_control_token(message["content"]) for message in messages)
        return _Opened(opened, zlib.crc32(array("i", opened.beginning)), control_tokens)

    def _render_group(
        self,
        item_id: str | None,
        first_index: int,
        responses: list[str],
        opened: _Opened | ConversationError,
        critique: CritiqueOptions | None,
        max_tokens: int,
        truncate: bool,
    ) -> list[RenderedResponse]:
        rendered: Sequence[Rendered | CriticRMError]
        group, control_tokens = 0, False
        if isinstance(opened, ConversationError):
            rendered = [opened] * len(responses)
        else:
            group, control_tokens = opened.group, opened.control_tokens
            rendered = opened.conversation.render_all(
                responses, max_model_len=self._max_model_len, max_critique_tokens=max_tokens, truncate=truncate
            )
        sequences = []
        for index, (response, one) in enumerate(zip(responses, rendered, strict=True), first_index):
            warnings = _warnings(response, control_tokens)
            if isinstance(one, CriticRMError):
                sequences.append(RenderedResponse(item_id, index, warnings, False, None, one))
                continue
            if critique is None:
                job = Job(one.token_ids, n=1, max_tokens=1, temperature=0.0, seed=None, group=group, ban=None)
            else:
                temperature, seed = critique.effective_temperature, critique.seed
                job = Job(one.token_ids, critique.n, max_tokens, temperature, seed, group, trace=critique.trace)
            sequences.append(RenderedResponse(item_id, index, warnings, one.truncated, job, None))
        return sequences


def _with_critiques(response: RenderedResponse, critiques: list[list[int]]) -> RenderedResponse:
    if response.job is None:
        return response
    prompt = response.job.token_ids
    # The reward after a critique is that at the position which predicts its last token.
    jobs = (replace(response.job, token_ids=[*prompt, *ids[:-1]]) for ids in critiques)
    return replace(response, supplied=tuple(map(SuppliedCritique, critiques, jobs)))


def _in_groups(responses: list[str]) -> Iterator[list[str]]:
    """In their order, as many together as are tokenised without a pause; a long one alone."""
    group: list[str] = []
    characters = 0
    for response in responses:
        characters += _MESSAGE + len(response)
        if group and characters > _INLINE:
            yield group
            group, characters = [], _MESSAGE + len(response)
        group.append(response)
    yield group


def _warnings(response: str, control_tokens: bool) -> list[str]:
    empty = [] if response.strip() else ["empty_response"]
    control = ["control_tokens"] if control_tokens or find_control_token(response) else []
    return empty + control
