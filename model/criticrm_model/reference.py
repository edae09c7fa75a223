"""The reference: a Critic-RM run by transformers, slow and simple. What vLLM is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from .reward import Completion, Dtype, FinishReason, RewardTokens, Settle, reward_positions

# vLLM's own floor: divided by less, logits overflow.
_LEAST_TEMPERATURE = 0.01


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """What the LM head saw at the two reward positions. Each `[batch, d_model]`, float32."""

    direct: torch.Tensor
    critiqued: torch.Tensor


class _Readout(LogitsProcessor):
    """Reads the reward logits of each step, then bans their tokens: vLLM's `raw_logits` with a `logit_bias`."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)
        self.steps: list[torch.Tensor] = []  # one [batch, rewards] a step

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:  # noqa: ARG002 - transformers' signature
        self.steps.append(scores[:, self.ids].float().clone())
        scores[:, self.ids] = -torch.inf
        return scores


class ReferenceModel:
    """Scores completions with transformers, and generates its own.

    Args:
        rewards: the reward token's id, or several and their weights.
    """

    def __init__(self, model: PreTrainedModel, rewards: int | RewardTokens, stop_token_ids: Sequence[int]) -> None:
        self.model = model.eval()
        # A base's generation config may hold a repetition penalty, which would distort both critique and reward.
        self.model.generation_config = GenerationConfig()
        self.reward_tokens = RewardTokens((rewards,)) if isinstance(rewards, int) else rewards
        self.stop_token_ids = tuple(stop_token_ids)

    @property
    def reward_token_id(self) -> int:
        """The only one's. Raises ValueError: there are several."""
        (token_id,) = self.reward_tokens.ids
        return token_id

    @classmethod
    def load(
        cls,
        folder: Path,
        rewards: int | RewardTokens,
        stop_token_ids: Sequence[int],
        *,
        dtype: Dtype = "auto",
        trust_remote_code: bool = False,
    ) -> ReferenceModel:
        """Load a checkpoint folder onto the GPU if there is one, else the CPU."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch_dtype: Any = "auto" if dtype == "auto" else getattr(torch, dtype)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch_dtype, device_map=device, trust_remote_code=trust_remote_code
        )
        return cls(model, rewards, stop_token_ids)

    def score(self, prompt: Sequence[int], completion: Sequence[int]) -> tuple[float, float]:
        """Rewards of a given completion, `(direct_score, score)`, in one forward pass. Raises NonFiniteReward."""
        read = self.read(prompt, completion)
        return read.direct_score, read.score

    @torch.inference_mode()
    def read(self, prompt: Sequence[int], completion: Sequence[int]) -> Completion:
        """A given completion with its rewards, in one forward pass. Raises NonFiniteReward."""
        positions = reward_positions(len(prompt), len(completion))
        ids = torch.tensor([[*prompt, *completion]], device=self.model.device)  # [1, seq]
        keep = torch.tensor(positions, device=self.model.device)
        logits = self.model(ids, logits_to_keep=keep, use_cache=False).logits[0]  # [2, vocab]
        direct, final = logits[:, list(self.reward_tokens.ids)].float().tolist()
        ended = completion[-1] in self.stop_token_ids
        return self.reward_tokens.completion(list(completion), "stop" if ended else "length", direct, final)

    def _generation(self, max_tokens: int, temperature: float) -> GenerationConfig:
        sampled = temperature > 0
        return GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=sampled,
            temperature=max(temperature, _LEAST_TEMPERATURE) if sampled else None,
            top_k=0 if sampled else None,
            eos_token_id=list(self.stop_token_ids),
            pad_token_id=self.stop_token_ids[0],
        )

    @torch.inference_mode()
    def critique(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        trace: bool = False,
        settle: Settle | None = None,
    ) -> tuple[list[Completion], HiddenStates]:
        """Write one critique a prompt and read both rewards in the same pass.

        Args:
            prompts: `[batch]` rendered prompts of any length; padded on the left here.
            max_tokens: at most this many tokens a critique, its end-of-turn token included.
            temperature: 0 is greedy; anything else is at least 0.01, as in vLLM.
            seed: of the sampling; sets torch's global generator.
            trace: keep the score of every step.
            settle: keep of each critique what was written until its score had settled.

        Raises:
            NonFiniteReward
        """
        if seed is not None:
            torch.manual_seed(seed)
        width = max(map(len, prompts))
        pad = self.stop_token_ids[0]
        device = self.model.device
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)  # [batch, width]
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        readout = _Readout(self.reward_tokens.ids)
        hidden: list[torch.Tensor] = []  # one [batch, d_model] a step
        lm_head = self.model.get_output_embeddings()
        hook = lm_head.register_forward_pre_hook(lambda _, args: hidden.append(args[0][:, -1].float()))
        try:
            output = self.model.generate(
                ids,
                attention_mask=mask,
                generation_config=self._generation(max_tokens, temperature),
                logits_processor=LogitsProcessorList([readout]),
            )
        finally:
            hook.remove()
        rewards = torch.stack(readout.steps)  # [steps, batch, rewards]
        completions = []
        for row, tokens in enumerate(output[:, width:].tolist()):
            end = next((i for i, token in enumerate(tokens) if token in self.stop_token_ids), None)
            kept = tokens if end is None else tokens[: end + 1]
            steps = rewards[: len(kept), row].tolist()
            finish_reason: FinishReason = "length" if end is None else "stop"
            traced = steps if trace or settle else ()
            completions.append(self.reward_tokens.completion(kept, finish_reason, steps[0], steps[-1], traced, settle))
        states = torch.stack(hidden)  # [steps, batch, d_model], on the head's device
        last = torch.tensor([len(c.token_ids) - 1 for c in completions], device=states.device)
        return completions, HiddenStates(
            direct=states[0].cpu(), critiqued=states[last, torch.arange(len(completions), device=states.device)].cpu()
        )
