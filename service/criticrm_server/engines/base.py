"""The engine protocol: one job is one prompt, with one or several critiques."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from criticrm_model import Completion


@dataclass(frozen=True, slots=True)
class Job:
    """What an engine is asked for.

    Attributes:
        token_ids: `[prompt_len]`, rendered.
        n: completions.
        max_tokens: of each completion; 1 reads the reward without writing a critique.
        temperature: 0 is greedy.
        seed: of the sampling; completion k of n uses its own, derived from it.
        group: the same for responses to one conversation, whose prompts begin alike.
    """

    token_ids: list[int]
    n: int
    max_tokens: int
    temperature: float
    seed: int | None
    group: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds a job spent waiting in the engine, on its prompt, and on its completions."""

    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Output:
    """What an engine returns: `completions` holds n; `cached_tokens` of the prompt were found in the cache."""

    completions: list[Completion]
    cached_tokens: int = 0
    timings: Timings | None = None


class Engine(Protocol):
    """Runs jobs concurrently. A cancelled `run` frees what it held in the engine."""

    async def run(self, job: Job) -> Output:
        """Raises EngineDead, EngineFailed, NoServer, NonFiniteReward."""
        ...

    async def check_health(self) -> None:
        """Raises EngineDead, NoServer."""
        ...

    async def close(self) -> None: ...
