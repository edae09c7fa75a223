"""Critiques and answers by any OpenAI-style endpoint, so that a bigger model can write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from criticrm_model.prompt import Message

from ..endpoint import Endpoint
from .writers import Conversation, Draft, Sampling, Task, WriterError


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

    def write(self, tasks: Sequence[Task], sampling: Sampling) -> list[list[Draft]]:
        if sampling.score_by in ("expected", "reward"):
            raise WriterError(f"scores by {sampling.score_by} need the model in this process: no --endpoint")
        bodies = [self._body(_asking(task), task.seed, sampling) for task in tasks]
        for body, task in zip(bodies, tasks, strict=True):
            if task.prefix:
                body["messages"].append(Message(role="assistant", content=task.prefix))
                body |= {"continue_final_message": True, "add_generation_prompt": False}
        return self._drafts(bodies, [task.prefix for task in tasks], sampling)

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        bodies = [self._body(c.messages, c.seed, sampling) for c in conversations]
        return self._drafts(bodies, [""] * len(bodies), sampling)

    def close(self) -> None:
        """Nothing is held."""

    def _body(self, messages: Sequence[Message], seed: int, sampling: Sampling) -> dict[str, Any]:
        return {
            "model": self.name,
            "messages": list(messages),
            "n": sampling.n,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
        }

    def _drafts(
        self, bodies: Sequence[dict[str, Any]], prefixes: Sequence[str], sampling: Sampling
    ) -> list[list[Draft]]:
        answers = self._endpoint.post_all("/chat/completions", bodies)
        return [
            _drafts(answer, sampling.n, prefix, self._endpoint.url)
            for answer, prefix in zip(answers, prefixes, strict=True)
        ]


def _asking(task: Task) -> tuple[Message, ...]:
    response, instruction = (
        Message(role="assistant", content=task.response),
        Message(role="user", content=task.instruction),
    )
    return (*task.prompt, response, instruction)


def _drafts(answer: Any, n: int, prefix: str, url: str) -> list[Draft]:
    choices = answer.get("choices", [])
    if len(choices) != n:
        raise WriterError(f"{url} gave {len(choices)} choices where {n} were asked for")
    # How many tokens each choice took is not told; the share of all is.
    tokens = int(answer.get("usage", {}).get("completion_tokens", 0)) // n
    return [
        Draft(
            (prefix + _continued(c["message"]["content"] or "", prefix, url)).strip(), str(c["finish_reason"]), tokens
        )
        for c in choices
    ]


def _continued(written: str, prefix: str, url: str) -> str:
    if prefix and written.lstrip().startswith(prefix[:40]):
        raise WriterError(
            f"{url} began anew where it should go on from the text it was given: it doesn't know "
            "continue_final_message, which vLLM's server does; leave out --explain, or write with --writer"
        )
    return written
