"""Critiques and answers by any OpenAI-style endpoint, so that a bigger model can write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from criticrm_model.prompt import Message

from ..endpoint import Endpoint
from .writers import Conversation, Draft, Sampling, Task, WriterError


class EndpointWriter:
    """An OpenAI-style `/chat/completions`.

    Args:
        endpoint: its URL ends in `/v1`.
        model: as the endpoint names it.
    """

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self.name = model
        self._endpoint = endpoint

    def write(self, tasks: Sequence[Task], sampling: Sampling) -> list[list[Draft]]:
        if sampling.score_by != "written":
            raise WriterError(f"scores that are {sampling.score_by} need the model in this process: no --endpoint")
        return self.answer([Conversation(_asking(task), task.seed) for task in tasks], sampling)

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        bodies = [
            {
                "model": self.name,
                "messages": list(conversation.messages),
                "n": sampling.n,
                "temperature": sampling.temperature,
                "max_tokens": sampling.max_tokens,
                "seed": conversation.seed,
            }
            for conversation in conversations
        ]
        answers = self._endpoint.post_all("/chat/completions", bodies)
        return [_drafts(answer, sampling.n, self._endpoint.url) for answer in answers]

    def close(self) -> None:
        """Nothing is held."""


def _asking(task: Task) -> tuple[Message, ...]:
    response, instruction = (
        Message(role="assistant", content=task.response),
        Message(role="user", content=task.instruction),
    )
    return (*task.prompt, response, instruction)


def _drafts(answer: Any, n: int, url: str) -> list[Draft]:
    choices = answer.get("choices", [])
    if len(choices) != n:
        raise WriterError(f"{url} gave {len(choices)} choices where {n} were asked for")
    # How many tokens each choice took is not told; the share of all is.
    tokens = int(answer.get("usage", {}).get("completion_tokens", 0)) // n
    return [Draft((c["message"]["content"] or "").strip(), str(c["finish_reason"]), tokens) for c in choices]
