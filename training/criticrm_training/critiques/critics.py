"""Who writes critiques or answers: vLLM in process, or any OpenAI-style endpoint, so that a bigger model can."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from criticrm_model import CriticRMError
from criticrm_model.default import resolve
from criticrm_model.manifest import REWARD_TOKEN
from criticrm_model.prompt import Message, Renderer
from criticrm_model.reward import Dtype

from ..endpoint import Endpoint


class CriticError(CriticRMError):
    """The model that should write can't be used."""


@dataclass(frozen=True, slots=True)
class Task:
    """One response to be critiqued `n` times; a `seed` of its own makes it independent of its neighbours."""

    prompt: tuple[Message, ...]
    response: str
    instruction: str
    seed: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a policy is to answer; a `seed` of its own makes its answers independent of their neighbours."""

    messages: tuple[Message, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Draft:
    """What the model wrote. `tokens` counts its end."""

    text: str
    finish_reason: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy; `max_tokens` of each draft, its end included."""

    n: int
    temperature: float
    max_tokens: int


class Critic(Protocol):
    """Writes critiques."""

    name: str

    def write(self, tasks: Sequence[Task], sampling: Sampling) -> list[list[Draft]]:
        """`n` drafts for each task, in order. Raises CriticError."""
        ...


class Policy(Protocol):
    """Answers conversations. Both critics below do."""

    name: str

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        """`n` drafts for each conversation, in order. Raises CriticError."""
        ...

    def close(self) -> None:
        """Give back what it holds: an engine's memory and its processes."""
        ...


class VLLMCritic:
    """vLLM in this process: token ids of our own renderer in, as training and serving see them.

    Args:
        model: `default`, a folder or a hub name: any instruction-tuned causal LM, or a Critic-RM.
        max_model_len: of prompt and critique, in tokens; longer prompts are truncated as the service does on
            `on_overflow=truncate`.

    Raises:
        CriticError: vLLM is not installed.
        UnsupportedModel: the tokenizer can't be rendered for.
    """

    def __init__(self, model: str, *, max_model_len: int, dtype: Dtype = "auto", **engine_arguments: Any) -> None:
        if find_spec("vllm") is None:
            raise CriticError("vLLM is not installed: install the extra 'serve' or 'serve-cpu', or give an --endpoint")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from transformers import AutoTokenizer
        from vllm import LLM
        from vllm.platforms import current_platform

        folder = resolve(model)
        if current_platform.is_cpu():
            # As the service sets them, for the same reasons (criticrm_server.engines.vllm_engine).
            engine_arguments = {
                "enforce_eager": True,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(2 * max_model_len, 4096),
                "kv_cache_memory_bytes": 2 * 2**30,
            } | engine_arguments
        self.name = model
        self._max_model_len = max_model_len
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._renderers: dict[str, Renderer] = {}
        # A Critic-RM's reward token is no word.
        reward_token_id = self._tokenizer.get_vocab().get(REWARD_TOKEN)
        self._bias = None if reward_token_id is None else {reward_token_id: -100.0}
        self._llm = LLM(
            str(folder), dtype=dtype, max_model_len=max_model_len, generation_config="vllm", **engine_arguments
        )

    def write(self, tasks: Sequence[Task], sampling: Sampling) -> list[list[Draft]]:
        prompts = [
            self._renderer(task.instruction)
            .open(task.prompt)
            .render(
                task.response,
                max_model_len=self._max_model_len,
                max_critique_tokens=sampling.max_tokens,
                truncate=True,
            )
            .token_ids
            for task in tasks
        ]
        return self._generate(prompts, [task.seed for task in tasks], sampling)

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        renderer = self._renderer("")  # no critique is asked for
        prompts = [renderer.render_conversation(conversation.messages) for conversation in conversations]
        if (longest := max(map(len, prompts), default=0)) + sampling.max_tokens > self._max_model_len:
            raise CriticError(
                f"a conversation of {longest} tokens and an answer of up to {sampling.max_tokens} do not fit in "
                f"max_model_len {self._max_model_len}"
            )
        return self._generate(prompts, [conversation.seed for conversation in conversations], sampling)

    def close(self) -> None:
        # A process that multiprocessing started waits for its own children before any finalizer would stop them.
        self._llm.llm_engine.engine_core.shutdown()

    def _generate(self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling) -> list[list[Draft]]:
        from vllm import SamplingParams, TokensPrompt

        renderer = self._renderer("")  # all end a turn alike
        params = [
            SamplingParams(
                n=sampling.n,
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                seed=seed if sampling.temperature else None,
                stop_token_ids=list(renderer.stop_token_ids),
                logit_bias=self._bias,
                detokenize=False,
            )
            for seed in seeds
        ]
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=token_ids) for token_ids in prompts], params, use_tqdm=False
        )
        return [
            [
                Draft(renderer.decode(c.token_ids), str(c.finish_reason), len(c.token_ids))
                for c in sorted(output.outputs, key=lambda c: c.index)
            ]
            for output in outputs
        ]

    def _renderer(self, instruction: str) -> Renderer:
        if instruction not in self._renderers:
            self._renderers[instruction] = Renderer(self._tokenizer, instruction)
        return self._renderers[instruction]


class EndpointCritic:
    """An OpenAI-style `/chat/completions`.

    Args:
        endpoint: its URL ends in `/v1`.
        model: as the endpoint names it.
    """

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self.name = model
        self._endpoint = endpoint

    def write(self, tasks: Sequence[Task], sampling: Sampling) -> list[list[Draft]]:
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


def open_writer(
    model: str, *, endpoint: str | None, key: str | None, concurrency: int, max_model_len: int, dtype: Dtype = "auto"
) -> VLLMCritic | EndpointCritic:
    """`model` at an endpoint, if one is given, or in this process. Raises as they do."""
    if endpoint:
        return EndpointCritic(Endpoint(endpoint, key=key, concurrency=concurrency), model)
    return VLLMCritic(model, max_model_len=max_model_len, dtype=dtype)


def _asking(task: Task) -> tuple[Message, ...]:
    response, instruction = (
        Message(role="assistant", content=task.response),
        Message(role="user", content=task.instruction),
    )
    return (*task.prompt, response, instruction)


def _drafts(answer: Any, n: int, url: str) -> list[Draft]:
    choices = answer.get("choices", [])
    if len(choices) != n:
        raise CriticError(f"{url} gave {len(choices)} choices where {n} were asked for")
    # How many tokens each choice took is not told; the share of all is.
    tokens = int(answer.get("usage", {}).get("completion_tokens", 0)) // n
    return [Draft((c["message"]["content"] or "").strip(), str(c["finish_reason"]), tokens) for c in choices]
