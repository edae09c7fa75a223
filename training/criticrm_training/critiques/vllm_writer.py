"""Critiques and answers by vLLM in this process."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from criticrm_model.checkpoint import longest_sequence
from criticrm_model.cores import compute_on_all_cores
from criticrm_model.default import resolve
from criticrm_model.prompt import Renderer
from criticrm_model.reward import Dtype, finite_reward

from .rendering import RenderedTask, render_conversation, render_task
from .score_line import SCORE_LINE_TOKENS, score_line
from .scores import GREATEST_EXPECTED, LEAST_SCORE, split_score
from .writers import Conversation, Draft, Request, Sampling, WriterError, WritingTask, reward_tokens


class VLLMWriter:
    """vLLM in this process: token ids of our own renderer in, as training and serving see them.

    Args:
        model: `default`, a folder or a hub name: any instruction-tuned causal LM, or a Critic-RM.
        max_model_len: of prompt and critique, in tokens, and no more than the model was made for; longer prompts are
            truncated as the service does on
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
        from transformers import AutoConfig, AutoTokenizer
        from vllm import LLM
        from vllm.platforms import current_platform

        folder = resolve(model)
        config = AutoConfig.from_pretrained(folder).get_text_config()
        max_model_len = min(max_model_len, longest_sequence(config) or max_model_len)
        if current_platform.is_cpu():
            compute_on_all_cores()
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
        self._rewards = reward_tokens(self._tokenizer.get_vocab(), str(folder))
        self._llm = LLM(
            str(folder),
            dtype=dtype,
            max_model_len=max_model_len,
            generation_config="vllm",
            logprobs_mode="raw_logits",  # rewards, and the logits of score digits
            **engine_arguments,
        )
        self._max_num_seqs = self._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
        self._finished: dict[str, Any] = {}  # outputs by request, until they are collected

    def write(self, tasks: Sequence[WritingTask], sampling: Sampling) -> list[list[Draft]]:
        return next(self.stream([[Request(task, sampling) for task in tasks]]))

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        return next(self.stream([[Request(conversation, sampling) for conversation in conversations]]))

    def stream(self, groups: Iterable[Sequence[Request]]) -> Iterator[list[list[Draft]]]:
        """The drafts of each group, in order. The next groups are begun as soon as the engine has room for them."""
        ahead = iter(groups)
        begun: deque[tuple[Sequence[Request], list[RenderedTask], list[str]]] = deque()

        def begin() -> None:
            while self._llm.llm_engine.get_num_unfinished_requests() < self._max_num_seqs:
                group = next(ahead, None)
                if group is None:
                    return
                rendered = [self._render(request) for request in group]
                prompts = [task.prompt_ids + task.prefix_ids for task in rendered]
                begun.append((group, rendered, self._enqueue(prompts, [self._params(request) for request in group])))

        begin()
        while begun:
            group, rendered, ids = begun.popleft()
            outputs = self._collect(ids, begin)
            drafts = [
                [self._draft(request, task, c) for c in sorted(output.outputs, key=lambda c: c.index)]
                for request, task, output in zip(group, rendered, outputs, strict=True)
            ]
            yield self._with_expected_scores(group, rendered, drafts)
            begin()

    def close(self) -> None:
        # A process that multiprocessing started waits for its own children before any finalizer would stop them.
        self._llm.llm_engine.engine_core.shutdown()

    def _render(self, request: Request) -> RenderedTask:
        asked, sampling, limit = request.asked, request.sampling, self._max_model_len
        if isinstance(asked, Conversation):
            ids = render_conversation(self._renderer, asked, max_model_len=limit, max_tokens=sampling.max_tokens)
            return RenderedTask(ids, [], truncated=None)
        spare = SCORE_LINE_TOKENS if sampling.score_by == "expected" else 0
        return render_task(self._renderer, asked, max_model_len=limit, max_tokens=sampling.max_tokens + spare)

    def _params(self, request: Request) -> Any:
        from vllm import SamplingParams

        sampling, rewards = request.sampling, self._rewards
        by_reward = sampling.score_by == "reward"
        if by_reward and rewards is None:
            raise WriterError(f"{self.name} has no reward token: only a Critic-RM scores by its reward")
        return SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=request.asked.seed if sampling.temperature else None,
            stop_token_ids=list(self._renderer.stop_token_ids),
            logit_bias=None if rewards is None else dict.fromkeys(rewards.ids, -100.0),  # a reward is no word
            logprob_token_ids=list(rewards.ids) if by_reward and rewards is not None else None,
            detokenize=False,
        )

    def _draft(self, request: Request, task: RenderedTask, completion: Any) -> Draft:
        score = None
        if request.sampling.score_by == "reward" and self._rewards is not None:
            # The reward position: what predicts the last token that was written.
            last = completion.logprobs[-1]
            score = finite_reward(self._rewards.score([last[token_id].logprob for token_id in self._rewards.ids]))
        text = self._renderer.decode([*task.prefix_ids, *completion.token_ids])
        return Draft(text, str(completion.finish_reason), len(completion.token_ids), score, task.truncated)

    def _with_expected_scores(
        self, group: Sequence[Request], rendered: Sequence[RenderedTask], drafts: list[list[Draft]]
    ) -> list[list[Draft]]:
        """Where they are scored by what is expected: the mean of the score that the model would write next.

        Over the digits that it may write.
        """
        from vllm import SamplingParams

        scored = [i for i, request in enumerate(group) if request.sampling.score_by == "expected"]
        if not scored:
            return drafts
        lead, digits = score_line(self._tokenizer, self.name)
        params = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=digits, detokenize=False)
        contexts = [
            rendered[i].prompt_ids + self._renderer.tokenize_critique(split_score(draft.text)[0])[:-1] + lead
            for i in scored
            for draft in drafts[i]
        ]
        outputs = iter(self._collect(self._enqueue(contexts, [params] * len(contexts))))
        values = torch.arange(LEAST_SCORE, GREATEST_EXPECTED + 1, dtype=torch.float64)

        def expected() -> float:
            entries = next(outputs).outputs[0].logprobs[0]
            logits = torch.tensor([entries[digit].logprob for digit in digits], dtype=torch.float64)
            return finite_reward(float(logits.softmax(0) @ values))

        for i in scored:
            drafts[i] = [replace(draft, score=expected()) for draft in drafts[i]]
        return drafts

    def _enqueue(self, prompts: Sequence[list[int]], params: Sequence[Any]) -> list[str]:
        """Ids of the requests, which the engine works on whenever outputs are collected."""
        from vllm import TokensPrompt

        if not prompts:
            return []
        asked = [TokensPrompt(prompt_token_ids=ids) for ids in prompts]
        ids = self._llm.enqueue(asked, list(params), use_tqdm=False)
        # vLLM adds random characters to the id under which it gives the output.
        return [request_id.partition("-")[0] for request_id in ids]

    def _collect(self, ids: Sequence[str], meanwhile: Callable[[], None] = lambda: None) -> list[Any]:
        """The outputs of these requests, in order; `meanwhile` is called after each step of the engine."""
        while not all(request_id in self._finished for request_id in ids):
            for output in self._llm.llm_engine.step():
                if output.finished:
                    self._finished[output.request_id] = output
            meanwhile()
        return [self._finished.pop(request_id) for request_id in ids]
