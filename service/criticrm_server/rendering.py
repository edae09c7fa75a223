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
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from criticrm_client.chat_templates import find_control_token
from criticrm_client.schemas import Criterion, CritiqueOptions, Item, Message, Role, SuppliedCritique
from criticrm_model import Completion, ConversationError, CriticRMError, FinishReason, Settle

from .criteria import OWN, Criteria, Instruction
from .engines.base import Job, Output
from .errors import LimitExceeded

if TYPE_CHECKING:
    from criticrm_model.prompt import Conversation, Rendered, Renderer

T = TypeVar("T")
_Tokenized: TypeAlias = tuple[list[int], FinishReason]  # a critique
_INLINE = 4_000  # characters, about a millisecond of tokenising: a longer text is done beside the event loop
_LONG = 200_000  # characters: nobody shall wait for others' megabytes
_MESSAGE = 50  # characters that a message's own tokens count as


@dataclass(frozen=True, slots=True)
class _Opened:
    """A conversation, the number of its group, and the warnings that each result of it gets."""

    conversation: Conversation
    group: int
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class ReadCritique:
    """A critique that a caller sent, and the job that reads the reward after it: one prefill.

    Attributes:
        token_ids: `[completion_len]`, its end included unless it was cut.
    """

    token_ids: list[int]
    finish_reason: FinishReason
    job: Job

    def completion(self, before: Output, after: Output) -> Completion:
        """With the rewards that were read before it and after it, each before a token that nobody keeps."""
        (first,), (last,) = before.completions, after.completions
        rewards = tuple((a[0], b[0]) for a, b in zip(first.rewards, last.rewards, strict=True))
        return Completion(self.token_ids, self.finish_reason, first.direct_score, last.direct_score, rewards)


@dataclass(frozen=True, slots=True)
class RenderedResponse:
    """One response: the jobs that score it, or the error that kept it from being rendered.

    Attributes:
        jobs: one for each criterion, or the only one; none where there is an error.
        criteria: where the request has a list of them.
        supplied: critiques that the caller sent; the only job then reads the reward before them.
        read: what the jobs gave already, of a response that gets no critique (`selecting`).
    """

    item_id: str | None
    index: int
    warnings: list[str]
    truncated: bool
    jobs: tuple[Job, ...]
    error: CriticRMError | None
    criteria: tuple[Criterion, ...] | None = None
    supplied: tuple[ReadCritique, ...] = ()
    read: tuple[Output, ...] = ()

    def places(self, n: int) -> int:
        """How many sequences it is. Args: n: critiques that are written of a response."""
        return len(self.supplied) or n * len(self.criteria or "1")


class Rendering:
    """Renders the items of requests.

    Args:
        max_model_len: the longest prompt with its critique, in tokens.
        max_criteria_tokens: of a criterion, and of a reference.
    """

    def __init__(self, renderer: Renderer, max_model_len: int, max_criteria_tokens: int) -> None:
        self._renderer = renderer
        self._criteria = Criteria(renderer, max_criteria_tokens)
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
        self, item: Item, critique: CritiqueOptions | None, max_tokens: int, *, truncate: bool, where: str = ""
    ) -> list[RenderedResponse]:
        """A job for each response, or its error.

        Args:
            where: the item's place in the request, as errors name it: `items[1].`.
            max_tokens: of a critique.
            truncate: drop what does not fit.
        """
        instructions = [OWN]
        if item.criteria is not None or item.reference is not None:
            characters = self._criteria.characters(item)
            instructions = await self._beside_others(characters, self._criteria.instructions, item, where)
        supplied = None if item.critiques is None else await self._tokenize_critiques(item.critiques, where)
        if supplied is not None:
            critique, max_tokens = None, max(len(ids) for several in supplied for ids, _ in several)
        each = [await self._render(item, one, critique, max_tokens, truncate) for one in instructions]
        found = each[0]
        if (criteria := item.criteria_list) is not None:
            found = [_by_criterion(tuple(criteria), several) for several in zip(*each, strict=True)]
        return found if supplied is None else list(map(_with_critiques, found, supplied))

    async def _render(
        self, item: Item, instruction: Instruction, critique: CritiqueOptions | None, max_tokens: int, truncate: bool
    ) -> list[RenderedResponse]:
        opened = await self._open(item.prompt, instruction)
        found: list[RenderedResponse] = []
        for group in _in_groups(item.responses):
            characters = sum(map(len, group)) + _MESSAGE * len(group)
            found += await self._beside_others(
                characters, self._render_group, item.id, len(found), group, opened, critique, max_tokens, truncate
            )
        return found

    async def _tokenize_critiques(
        self, critiques: list[list[str | SuppliedCritique]], where: str
    ) -> list[list[_Tokenized]]:
        """`[responses][critiques]`. Raises LimitExceeded: one alone is longer than the engine takes."""
        found: list[list[_Tokenized]] = []
        for k, several in enumerate(critiques):
            sent = [SuppliedCritique(text=one) if isinstance(one, str) else one for one in several]
            characters = sum(len(one.text) for one in sent) + _MESSAGE * len(sent)
            found.append(await self._beside_others(characters, list, map(self._tokenize_critique, sent)))
            if (longest := max(len(ids) for ids, _ in found[-1])) >= self._max_model_len:
                raise LimitExceeded(f"{where}critiques[{k}]", longest, self._max_model_len - 1, "tokens in a critique")
        return found

    def _tokenize_critique(self, critique: SuppliedCritique) -> _Tokenized:
        token_ids = self._renderer.tokenize_critique(critique.text)
        return token_ids if critique.finish_reason == "stop" else token_ids[:-1], critique.finish_reason

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

    async def _open(self, prompt: str | list[Message], instruction: Instruction) -> _Opened | ConversationError:
        turns = prompt if isinstance(prompt, str) else tuple((turn["role"], turn["content"]) for turn in prompt)
        texts = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
        characters = sum(map(len, texts)) + _MESSAGE * len(texts) + sum(map(len, instruction.texts))
        open_turns = self._open_short if characters <= _INLINE else self._open_turns
        try:
            return await self._beside_others(characters, open_turns, turns, instruction)
        except ConversationError as error:
            return error

    def _open_turns(self, turns: str | tuple[tuple[Role, str], ...], instruction: Instruction) -> _Opened:
        messages: list[Message] = (
            [{"role": "user", "content": turns}]
            if isinstance(turns, str)
            else [{"role": role, "content": content} for role, content in turns]
        )
        renderer = self._renderer.with_criteria(instruction.criteria, instruction.reference)
        opened = renderer.open(messages, most_tokens=self._max_model_len)
        texts = [*(message["content"] for message in messages), *instruction.texts]
        warnings = [*instruction.warnings, *(["control_tokens"] if any(map(find_control_token, texts)) else [])]
        return _Opened(opened, zlib.crc32(array("i", opened.beginning)), warnings)

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
        group, warnings = 0, []
        if isinstance(opened, ConversationError):
            rendered = [opened] * len(responses)
        else:
            group, warnings = opened.group, opened.warnings
            rendered = opened.conversation.render_all(
                responses, max_model_len=self._max_model_len, max_critique_tokens=max_tokens, truncate=truncate
            )
        sequences = []
        for index, (response, one) in enumerate(zip(responses, rendered, strict=True), first_index):
            own = _warnings(response, warnings)
            if isinstance(one, CriticRMError):
                sequences.append(RenderedResponse(item_id, index, own, False, (), one))
                continue
            if critique is None:
                job = Job(one.token_ids, n=1, max_tokens=1, temperature=0.0, seed=None, group=group, ban=None)
            else:
                temperature, seed, stop = critique.effective_temperature, critique.seed, critique.stop
                job = Job(one.token_ids, critique.n, max_tokens, temperature, seed, group, trace=critique.trace)
                if stop is not None:
                    job = replace(job, settle=Settle(stop.settled, stop.tokens))
            sequences.append(RenderedResponse(item_id, index, own, one.truncated, (job,), None))
        return sequences


def _by_criterion(criteria: tuple[Criterion, ...], each: Sequence[RenderedResponse]) -> RenderedResponse:
    """One response, rendered for each criterion."""
    error = next((one.error for one in each if one.error), None)
    jobs = () if error else tuple(job for one in each for job in one.jobs)
    warnings = list(dict.fromkeys(warning for one in each for warning in one.warnings))
    truncated = error is None and any(one.truncated for one in each)
    return replace(each[0], jobs=jobs, error=error, warnings=warnings, truncated=truncated, criteria=criteria)


def _with_critiques(response: RenderedResponse, critiques: list[_Tokenized]) -> RenderedResponse:
    if not response.jobs:
        return response
    (before,) = response.jobs
    # The reward after a critique is that at the position which predicts its last token.
    supplied = (
        ReadCritique(ids, ended_by, replace(before, token_ids=[*before.token_ids, *ids[:-1]]))
        for ids, ended_by in critiques
    )
    return replace(response, supplied=tuple(supplied))


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


def _warnings(response: str, of_all: list[str]) -> list[str]:
    empty = [] if response.strip() else ["empty_response"]
    control = ["control_tokens"] if "control_tokens" not in of_all and find_control_token(response) else []
    return empty + of_all + control
