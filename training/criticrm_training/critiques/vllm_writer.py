"""Critiques and answers by vLLM in this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from criticrm_model.default import resolve
from criticrm_model.manifest import REWARD_TOKEN
from criticrm_model.prompt import Renderer
from criticrm_model.reward import Dtype, finite_reward

from .rendering import render_conversation, render_task
from .scores import GREATEST_EXPECTED, LEAST_SCORE, split_score
from .writers import Conversation, Draft, Sampling, Task, WriterError

_SCORE_LINE_TOKENS = 16  # room to ask for a score after the longest critique


class VLLMWriter:
    """vLLM in this process: token ids of our own renderer in, as training and serving see them.

    Args:
        model: `default`, a folder or a hub name: any instruction-tuned causal LM, or a Critic-RM.
        max_model_len: of prompt and critique, in tokens; longer prompts are truncated as the service does on
            `on_overflow=truncate`.

    Raises:
        WriterError: vLLM is not installed.
        UnsupportedModel: the tokenizer can't be rendered for.
    """

    def __init__(self, model: str, *, max_model_len: int, dtype: Dtype = "auto", **engine_arguments: Any) -> None:
        if find_spec("vllm") is None:
            raise WriterError(
                "vLLM is not installed: install the extra 'serve' or 'serve-cpu', or choose --writer transformers, or "
                "give an --endpoint"
            )
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
        self._renderer = Renderer(self._tokenizer, "")
        self._reward_token_id = self._tokenizer.get_vocab().get(REWARD_TOKEN)
        self._llm = LLM(
            str(folder),
            dtype=dtype,
            max_model_len=max_model_len,
            generation_config="vllm",
            logprobs_mode="raw_logits",  # rewards, and the logits of score digits
            **engine_arguments,
        )

    def write(self, tasks: Sequence[Task], sampling: Sampling) -> list[list[Draft]]:
        spare = _SCORE_LINE_TOKENS if sampling.score_by == "expected" else 0
        rendered = [
            render_task(self._renderer, task, max_model_len=self._max_model_len, max_tokens=sampling.max_tokens + spare)
            for task in tasks
        ]
        prompts, prefixes = [prompt for prompt, _ in rendered], [prefix for _, prefix in rendered]
        drafts = self._sample(prompts, prefixes, [task.seed for task in tasks], sampling)
        if sampling.score_by != "expected":
            return drafts
        contexts = [
            prompt + self._renderer.tokenize_critique(split_score(draft.text)[0])[:-1]
            for prompt, several in zip(prompts, drafts, strict=True)
            for draft in several
        ]
        scores = iter(self._expected_scores(contexts))
        return [[replace(draft, score=next(scores)) for draft in several] for several in drafts]

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        prompts = [
            render_conversation(
                self._renderer, conversation, max_model_len=self._max_model_len, max_tokens=sampling.max_tokens
            )
            for conversation in conversations
        ]
        nothing: list[list[int]] = [[] for _ in prompts]
        return self._sample(prompts, nothing, [conversation.seed for conversation in conversations], sampling)

    def close(self) -> None:
        # A process that multiprocessing started waits for its own children before any finalizer would stop them.
        self._llm.llm_engine.engine_core.shutdown()

    def _sample(
        self, prompts: Sequence[list[int]], prefixes: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[Draft]]:
        from vllm import SamplingParams

        by_reward = sampling.score_by == "reward"
        if by_reward and self._reward_token_id is None:
            raise WriterError(f"{self.name} has no reward token: only a Critic-RM scores by its reward")
        reward_ids = [self._reward_token_id] if self._reward_token_id is not None else []
        params = [
            SamplingParams(
                n=sampling.n,
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                seed=seed if sampling.temperature else None,
                stop_token_ids=list(self._renderer.stop_token_ids),
                logit_bias={token_id: -100.0 for token_id in reward_ids} or None,  # a reward is no word
                logprob_token_ids=reward_ids if by_reward else None,
                detokenize=False,
            )
            for seed in seeds
        ]
        begun = [prompt + prefix for prompt, prefix in zip(prompts, prefixes, strict=True)]
        return [
            [
                Draft(
                    self._renderer.decode([*prefix, *c.token_ids]),
                    str(c.finish_reason),
                    len(c.token_ids),
                    # The reward position: what predicts the last token that was written.
                    finite_reward(c.logprobs[-1][reward_ids[0]].logprob) if by_reward else None,
                )
                for c in sorted(output.outputs, key=lambda c: c.index)
            ]
            for prefix, output in zip(prefixes, self._generate(begun, params), strict=True)
        ]

    def _expected_scores(self, contexts: list[list[int]]) -> list[float]:
        """The mean of the score that the model would write next, over the digits that it may write."""
        from vllm import SamplingParams

        lead, digits = self._score_line()
        params = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=digits, detokenize=False)
        outputs = self._generate([context + lead for context in contexts], params)
        values = torch.arange(LEAST_SCORE, GREATEST_EXPECTED + 1, dtype=torch.float64)
        scores = []
        for output in outputs:
            entries = output.outputs[0].logprobs[0]
            logits = torch.tensor([entries[digit].logprob for digit in digits], dtype=torch.float64)
            scores.append(finite_reward(float(logits.softmax(0) @ values)))
        return scores

    def _score_line(self) -> tuple[list[int], list[int]]:
        """The tokens before the number of a score line, and the token of each number. Raises WriterError."""

        def tokens(text: str) -> list[int]:
            return list(self._tokenizer(text, add_special_tokens=False).input_ids)

        lead = tokens("\nScore: ")
        lines = [tokens(f"\nScore: {number}") for number in range(LEAST_SCORE, GREATEST_EXPECTED + 1)]
        if any(line[:-1] != lead for line in lines):
            raise WriterError(f"{self.name}'s tokenizer has no token for a digit alone: use scores that are written")
        return lead, [line[-1] for line in lines]

    def _generate(self, prompts: Sequence[list[int]], params: Any) -> list[Any]:
        from vllm import TokensPrompt

        return list(self._llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts], params, use_tqdm=False))
