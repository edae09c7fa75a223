"""Critiques and answers by plain transformers, for machines without vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import psutil
import torch

from criticrm_model.checkpoint import longest_sequence
from criticrm_model.default import resolve
from criticrm_model.manifest import DEFAULT_NAME
from criticrm_model.prompt import Renderer
from criticrm_model.reward import Dtype, finite_reward

from ..base import has_fast_bfloat16, load_base
from .decoding import Decoded, decode, use_grouped_attention
from .rendering import RenderedTask, render_conversation, render_task
from .score_line import SCORE_LINE_TOKENS, score_line
from .scores import GREATEST_EXPECTED, LEAST_SCORE, split_score
from .writers import Conversation, Draft, Request, Sampling, WriterError, WritingTask, reward_tokens, write_group

# Sequences in one batch at the most; what they need in memory may allow fewer.
_ROWS = {"cuda": 2048, "cpu": 32}
# A share of the free memory for the KV cache, which is copied as it grows.
_CACHE_SHARE = 0.3

T = TypeVar("T")


class TransformersWriter:
    """A causal LM in this process, in batches of similar length with a KV cache; on the GPU where there is one.

    Args:
        model: `default`, a folder, a GGUF file or a hub name: any instruction-tuned causal LM, or a Critic-RM.
        max_model_len: of prompt and critique, in tokens, and no more than the model was made for; longer prompts are
            truncated as the service does on
            `on_overflow=truncate`.

    Raises:
        CheckpointError: there is no such model.
        UnsupportedModel: the tokenizer can't be rendered for.
    """

    def __init__(self, model: str, *, max_model_len: int, dtype: Dtype = "auto") -> None:
        cuda = torch.cuda.is_available()
        best = "bfloat16" if has_fast_bfloat16() else "float32"
        precision = getattr(torch, best if dtype == "auto" else dtype)
        self.name = model
        # For a trainer `default` is a base; for a writer the critic that was trained from it.
        self._model, self._tokenizer = load_base(str(resolve(model)) if model == DEFAULT_NAME else model, precision)
        longest = longest_sequence(self._model.config.get_text_config())
        self._max_model_len = min(max_model_len, longest or max_model_len)
        self._model.eval()
        use_grouped_attention(self._model)
        self._renderer = Renderer(self._tokenizer, "")
        self._rewards = reward_tokens(self._tokenizer.get_vocab(), self._tokenizer.name_or_path)
        self._rows = _ROWS["cuda" if cuda else "cpu"]

    def write(self, tasks: Sequence[WritingTask], sampling: Sampling) -> list[list[Draft]]:
        by_reward, by_expected = sampling.score_by == "reward", sampling.score_by == "expected"
        if by_reward and self._rewards is None:
            raise WriterError(f"{self.name} has no reward token: only a Critic-RM scores by its reward")
        longest = sampling.max_tokens + (SCORE_LINE_TOKENS if by_expected else 0)
        rendered = [
            render_task(self._renderer, task, max_model_len=self._max_model_len, max_tokens=longest) for task in tasks
        ]
        prompts = [task.prompt_ids + task.prefix_ids for task in rendered]
        written = self._decode(prompts, [task.seed for task in tasks], sampling)
        drafts = [
            [self._draft(task, sequence, by_reward) for sequence in several]
            for task, several in zip(rendered, written, strict=True)
        ]
        if not by_expected:
            return drafts
        contexts = [
            task.prompt_ids + self._renderer.tokenize_critique(split_score(draft.text)[0])[:-1]
            for task, several in zip(rendered, drafts, strict=True)
            for draft in several
        ]
        scores = iter(self._expected_scores(contexts))
        return [[replace(draft, score=next(scores)) for draft in several] for several in drafts]

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        prompts = [
            render_conversation(self._renderer, c, max_model_len=self._max_model_len, max_tokens=sampling.max_tokens)
            for c in conversations
        ]
        written = self._decode(prompts, [conversation.seed for conversation in conversations], sampling)
        rendered = [RenderedTask(prompt, [], truncated=None) for prompt in prompts]
        return [
            [self._draft(conversation, sequence, scored=False) for sequence in several]
            for conversation, several in zip(rendered, written, strict=True)
        ]

    def stream(self, groups: Iterable[Sequence[Request]]) -> Iterator[list[list[Draft]]]:
        """The drafts of each group, in order; as many groups are written at once as make a full batch."""
        together: list[Sequence[Request]] = []
        for group in groups:
            together.append(group)
            if sum(request.sampling.n for several in together for request in several) >= self._rows:
                yield from self._write_groups(together)
                together = []
        if together:
            yield from self._write_groups(together)

    def _write_groups(self, groups: Sequence[Sequence[Request]]) -> Iterator[list[list[Draft]]]:
        drafts = iter(write_group(self, [request for group in groups for request in group]))
        for group in groups:
            yield [next(drafts) for _ in group]

    def close(self) -> None:
        """Free the model's memory."""
        del self._model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _draft(self, task: RenderedTask, sequence: Decoded, scored: bool) -> Draft:
        return Draft(
            self._renderer.decode([*task.prefix_ids, *sequence.token_ids]),
            "stop" if sequence.stopped else "length",
            len(sequence.token_ids),
            sequence.reward if scored else None,
            task.truncated,
        )

    def _decode(self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling) -> list[list[Decoded]]:
        def run(places: list[int]) -> list[list[Decoded]]:
            return decode(
                self._model,
                [prompts[i] for i in places],
                [seeds[i] for i in places],
                n=sampling.n,
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                stop_token_ids=self._renderer.stop_token_ids,
                rewards=self._rewards,
            )

        return self._in_batches(prompts, sampling.n, sampling.max_tokens, run)

    @torch.inference_mode()
    def _expected_scores(self, contexts: list[list[int]]) -> list[float]:
        """The mean of the score that the model would write next, over the digits that it may write."""
        lead, digits = score_line(self._tokenizer, self.name)
        values = torch.arange(LEAST_SCORE, GREATEST_EXPECTED + 1, dtype=torch.float64)
        asked = [context + lead for context in contexts]

        def run(places: list[int]) -> list[float]:
            batch = [asked[i] for i in places]
            width = max(map(len, batch))
            pad = self._renderer.stop_token_ids[0]
            device = self._model.device
            ids = torch.tensor([[pad] * (width - len(p)) + p for p in batch], device=device)  # [batch, width]
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=device)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = self._model(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
            ).logits[:, -1, digits]
            return [finite_reward(score) for score in (logits.double().softmax(-1).cpu() @ values).tolist()]

        return self._in_batches(asked, 1, 1, run)

    def _in_batches(
        self, prompts: Sequence[list[int]], n: int, more: int, run: Callable[[list[int]], list[T]]
    ) -> list[T]:
        """`run` on batches of prompts of similar length, longest first; what it returned, in the prompts' order.

        Args:
            n: sequences a prompt.
            more: tokens that may follow each prompt.
        """
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
        tokens = self._cache_tokens()
        found: dict[int, T] = {}
        while order:
            longest = len(prompts[order[0]]) + more
            size = max(1, min(self._rows, tokens // longest) // n)
            places, order = order[:size], order[size:]
            found |= zip(places, run(places), strict=True)
        return [found[i] for i in range(len(prompts))]

    def _cache_tokens(self) -> int:
        """How many tokens' keys and values fit in the memory that is free now."""
        config = self._model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = 2 * config.num_hidden_layers * heads * width * self._model.dtype.itemsize
        free = torch.cuda.mem_get_info()[0] if self._model.device.type == "cuda" else psutil.virtual_memory().available
        return int(_CACHE_SHARE * free / size)
