"""The engine protocol: one job is one prompt, with one or several critiques."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from criticrm_model import Completion, Settle

from ..errors import NotSupported

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from criticrm_model.checkpoint import Checkpoint

BAN = -1e4  # below any logit, and within every dtype


# Which of the n completions, its next token ids, and the score before each of them.
Watch = Callable[[int, Sequence[int], Sequence[float]], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work for an engine: n completions of one prompt.

    Attributes:
        token_ids: `[prompt_len]`, rendered.
        n: completions.
        max_tokens: of each completion; 1 reads the reward without writing a critique.
        temperature: 0 is greedy.
        seed: of the sampling; completion k of n uses its own, derived from it.
        group: the same for responses to one conversation, whose prompts begin alike.
        ban: the bias that prevents the reward token from being written, which must not change the reward that is read;
            None where written tokens are discarded.
        trace: the score before each token is wanted too.
        watch: called with tokens as they are written, and the score before each; by an engine that can't, once at the
            end.
        settle: when a completion is ended. Engines that can stop writing there; of others the rest is dropped.
    """

    token_ids: list[int]
    n: int
    max_tokens: int
    temperature: float
    seed: int | None
    group: int = 0
    ban: float | None = BAN
    trace: bool = False
    watch: Watch | None = None
    settle: Settle | None = None

    def split(self) -> list[Job]:
        """One job for each completion, with its own seed."""
        return [
            replace(
                self, n=1, seed=None if self.seed is None else self.seed + k, watch=self.watch and _of(k, self.watch)
            )
            for k in range(self.n)
        ]


def _of(k: int, watch: Watch) -> Watch:
    return lambda _, token_ids, scores: watch(k, token_ids, scores)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds a job spent waiting in the engine, on its prompt, and on its completions."""

    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Output:
    """What an engine returns.

    Attributes:
        completions: `[n]`.
        cached_tokens: tokens of the prompt that were read from the prefix cache.
        reused: of an identical greedy job, not computed again (`GreedyResults`).
    """

    completions: list[Completion]
    cached_tokens: int = 0
    timings: Timings | None = None
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """How an engine computes.

    Attributes:
        exact: weights, activations and rewards are float32.
        float32_head: the LM head gives float32, whatever the body's precision.
        step_tokens: longer prompts are prefilled in chunks; None where none are.
        cache_block: tokens of a block of the prefix cache, which finds whole blocks only.
        described: the parts of it that a wrong reward may come from, by name: runner, attention backend and so on.
    """

    exact: bool = False
    float32_head: bool = False
    step_tokens: int | None = None
    cache_block: int = 128
    described: dict[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """Runs jobs concurrently. A cancelled `run` frees what it held in the engine.

    Attributes:
        facts: how it computes; known once it has started.
        max_model_len: the longest prompt with its critique, in tokens; known once it has started.
    """

    facts: Facts
    max_model_len: int

    async def start(self) -> None:
        """Load the weights, or find the servers; once, in the event loop that runs the jobs.

        What can be refused without that is refused by the constructor.

        Raises:
            CriticRMError: why it can't start.
        """
        ...

    async def run(self, job: Job) -> Output:
        """The job's completions with their rewards. Raises EngineDead, EngineFailed, NoServer, NonFiniteReward."""
        ...

    async def check_health(self) -> None:
        """Raises EngineDead, NoServer."""
        ...

    async def reload(self, checkpoint: Checkpoint) -> None:
        """Take another checkpoint's weights in place; no job runs meanwhile. Raises NotSupported, EngineFailed."""
        ...

    async def sleep(self) -> None:
        """Give away the memory of weights and cache; no job runs meanwhile. Raises NotSupported."""
        ...

    async def wake(self) -> None:
        """Restore what sleep freed. Raises NotSupported."""
        ...

    async def close(self) -> None:
        """Free what it holds, also where `start` failed."""
        ...

    def collectors(self) -> Sequence[Collector]:
        """Prometheus metrics of its own, beside those that vLLM registers globally."""
        ...


class FixedWeights:
    """An engine whose weights stay as and where they are."""

    why = "this engine can't"

    async def reload(self, checkpoint: Checkpoint) -> None:  # noqa: ARG002 - the protocol's
        raise NotSupported(f"{self.why} take other weights in place: restart it with the other checkpoint")

    async def sleep(self) -> None:
        raise NotSupported(f"{self.why} sleep")

    async def wake(self) -> None:
        raise NotSupported(f"{self.why} sleep")
