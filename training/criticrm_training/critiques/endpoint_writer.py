"""Critiques and answers by any OpenAI-style endpoint, so that a bigger model can write."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import tee
from typing import Any

from pydantic import BaseModel, NonNegativeInt, ValidationError

from criticrm_model.prompt import Message

from ..endpoint import Endpoint, EndpointError
from ..faults import format_faults
from .rendering import prefixed, require_text
from .writers import Conversation, Draft, Request, Sampling, WriterError, WritingTask

_BEGINNING = 40  # characters of a prefix that a draft would not begin with by chance


class EndpointWriter:
    """An OpenAI-style `/chat/completions`.

    A task's prefix is sent as an assistant's message that the model continues, with vLLM's
    `continue_final_message`; an endpoint that doesn't know that, and repeats or ignores the prefix, is an error.

    Args:
        endpoint: its URL ends in `/v1`.
        model: as the endpoint names it.
    """

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self.name = model
        self._endpoint = endpoint

    def write(self, tasks: Sequence[WritingTask], sampling: Sampling) -> list[list[Draft]]:
        (drafts,) = self.stream([[Request(task, sampling) for task in tasks]])
        return drafts

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        (drafts,) = self.stream([[Request(conversation, sampling) for conversation in conversations]])
        return drafts

    def stream(self, groups: Iterable[Sequence[Request]]) -> Iterator[list[list[Draft]]]:
        """The drafts of each group, in order. The next groups' requests are sent while the last of one are answered.

        Raises:
            WriterError, EndpointError: from where the request is that they are about; later ones may have been sent.
        """
        ahead, behind = tee(groups)
        with closing(self._write_each(request for group in ahead for request in group)) as drafts:
            for group in behind:
                yield [next(drafts) for _ in group]

    def close(self) -> None:
        """Nothing is held."""

    def _write_each(self, requests: Iterable[Request]) -> Generator[list[Draft], None, None]:
        sent: deque[Request] = deque()  # and not answered yet
        answered = 0

        def bodies() -> Iterator[dict[str, Any]]:
            for request in requests:
                sent.append(request)
                yield self._body(request)

        with closing(self._endpoint.post_each("/chat/completions", bodies())) as answers:
            try:
                for answer in answers:
                    drafts = self._drafts(sent.popleft(), answer)
                    answered += 1
                    yield drafts
            except EndpointError as error:
                asked = sent[error.request - answered].asked
                raise EndpointError(f"{prefixed(asked)}{error}", error.request) from error

    def _body(self, request: Request) -> dict[str, Any]:
        asked, sampling = request.asked, request.sampling
        if sampling.score_by in ("expected", "reward"):
            raise WriterError(f"scores by {sampling.score_by} need the model in this process: no --endpoint")
        require_text(asked)
        return {
            "model": self.name,
            "messages": list(_write_messages(asked) if isinstance(asked, WritingTask) else asked.messages),
            "n": sampling.n,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": asked.seed,
        } | (_going_on(asked) if isinstance(asked, WritingTask) else {})

    def _drafts(self, request: Request, answer: Any) -> list[Draft]:
        prefix = request.asked.prefix if isinstance(request.asked, WritingTask) else ""
        try:
            return _drafts(answer, request.sampling.n, prefix)
        except ValueError as error:
            raise WriterError(f"{prefixed(request.asked)}{self._endpoint.url} answered 200, but {error}") from error


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str
    index: int = 0


class _Usage(BaseModel):
    completion_tokens: NonNegativeInt | None = None


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


def _write_messages(task: WritingTask) -> tuple[Message, ...]:
    turns = [
        *task.prompt,
        Message(role="assistant", content=task.response),
        Message(role="user", content=task.instruction),
    ]
    return (*turns, Message(role="assistant", content=task.prefix)) if task.prefix else tuple(turns)


def _going_on(task: WritingTask) -> dict[str, bool]:
    return {"continue_final_message": True, "add_generation_prompt": False} if task.prefix else {}


def _drafts(answer: Any, n: int, prefix: str) -> list[Draft]:
    """Raises ValueError: there are not so many drafts in it."""
    try:
        completion = _Completion.model_validate(answer)
    except ValidationError as error:
        raise ValueError(f"with what is no completion ({'; '.join(format_faults(error))})") from error
    choices = sorted(completion.choices, key=lambda choice: choice.index)
    if len(choices) != n:
        raise ValueError(f"returned {len(choices)} choices for n = {n}")
    # How many tokens each choice took is not reported; the share of all is.
    total = completion.usage.completion_tokens if completion.usage else None
    return [
        Draft(_text(choice, prefix), choice.finish_reason, None if total is None else total // n) for choice in choices
    ]


def _text(choice: _Choice, prefix: str) -> str:
    written = choice.message.content
    if written is None:
        if choice.finish_reason == "stop":
            raise ValueError("a choice ended by itself with content null: does it write elsewhere (reasoning, a tool)?")
        written = ""  # cut or filtered before the first word, as finish_reason says
    if prefix and written.lstrip().startswith(prefix[:_BEGINNING]):
        raise ValueError(
            "it began a new message instead of continuing the last one: it does not support continue_final_message, "
            "as vLLM's server does; omit --explain, or use --writer instead of --endpoint"
        )
    # Halves of one character, as servers send them, are joined; a half alone becomes U+FFFD, as in broken UTF-8.
    return (prefix + written).strip().encode("utf-16", "surrogatepass").decode("utf-16", "replace")
