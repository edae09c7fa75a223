"""A language model with a reward head: one forward pass gives the critique loss and both rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from .packing import block_mask


@dataclass(frozen=True)  # without slots: ZeRO-3 looks for the tensors in `vars` of it
class JointOutput:
    """What the objective is made of, for a batch of b pairs.

    Attributes:
        critique_loss: summed over the critique tokens that are learned, in nats.
        direct_scores: `[2b]` float32, before any critique; chosen and rejected in turn.
        scores: `[n]` float32, after each critique that the reward loss reads.
        direct_rewards, rewards: `[2b, rewards]` and `[n, rewards]`, of several rewards, whose weighted sums the scores
            are; else None.
    """

    critique_loss: torch.Tensor
    direct_scores: torch.Tensor
    scores: torch.Tensor
    direct_rewards: torch.Tensor | None = None
    rewards: torch.Tensor | None = None


class RewardHead(nn.Module):
    """The reward of a hidden state, or several: linear, in float32.

    A module of its own, since FSDP and ZeRO-3 gather weights by module. They may gather this one in bfloat16, which
    is how a bfloat16 checkpoint holds it; the weight that the optimizer moves is in float32 always.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape, dtype=torch.float32, device=device))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Args: hidden: `[n, d_model]`. Returns `[n]`, or `[n, rewards]` where there are several; float32."""
        return _reward(hidden, self.weight)


def _reward(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return hidden.float() @ weight.float().mT if weight.dim() > 1 else hidden.float() @ weight.float()


def without_adapters(lm: PreTrainedModel | PeftModel) -> PreTrainedModel:
    return cast("PreTrainedModel", lm.get_base_model()) if isinstance(lm, PeftModel) else lm


class JointModel(nn.Module):
    """A causal LM, perhaps under adapters, and a linear reward head in float32 on what its LM head sees.

    The LM head runs at the positions that predict a critique token and nowhere else, so the critique loss costs
    little beside the reward alone. On export the head becomes the row of the reward token (docs/adr/0001).

    Attributes:
        teacher: the reward that training started from, for `teacher_scores`; of the shape of the head's weight.
        weights: `[rewards]` float32, of several rewards what each weighs in the score; else None.

    Args:
        lm: its vocabulary is still the base's: the critique loss knows no reward token.
        logit_scale: what the architecture multiplies its logits with (Granite, Cohere), else 1.
        weights: see above.
        writes: False for the scalar baseline, which has no critique loss. All processes alike: where weights lie in
            parts, they gather the LM head together.
    """

    teacher: torch.Tensor
    weights: torch.Tensor | None

    def __init__(
        self,
        lm: PreTrainedModel | PeftModel,
        logit_scale: float = 1.0,
        *,
        weights: Sequence[float] = (),
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.writes = writes
        self.lm = lm
        self.logit_scale = logit_scale
        lm_head = lm.get_output_embeddings()  # `in_features`: under ZeRO-3 the weight itself is empty here
        shape = (len(weights), lm_head.in_features) if weights else (lm_head.in_features,)
        self.reward = RewardHead(shape, lm_head.weight.device)
        on = {"dtype": torch.float32, "device": lm_head.weight.device}
        self.register_buffer("weights", torch.tensor(weights, **on) if weights else None, persistent=False)
        self.register_buffer("teacher", torch.zeros_like(self.reward.weight), persistent=False)

    @property
    def config(self) -> Any:
        """The language model's, which the trainer and its back ends ask for."""
        return self.lm.config

    @property
    def _no_split_modules(self) -> Any:
        """The classes of the layers, by which FSDP splits a model."""
        return self.lm._no_split_modules

    def tie_weights(self) -> None:
        """Called by FSDP after it has moved the weights."""
        self.lm.tie_weights()

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations in the backward pass; frozen embeddings must then pass gradients on."""
        self.lm.gradient_checkpointing_enable(**options)
        self.lm.enable_input_require_grads()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        predicts_at: torch.Tensor,
        targets: torch.Tensor,
        direct_at: torch.Tensor,
        score_at: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
        **_: torch.Tensor,
    ) -> JointOutput:
        """Args: a batch of `PairCollator`."""
        hidden = self._hidden(input_ids, attention_mask, position_ids, segments)
        # Indexes whose number is known without asking the GPU: a mask would make it wait.
        critique_loss = self._critique_loss(hidden.index_select(0, predicts_at), targets)
        direct = self.reward(hidden.index_select(0, direct_at))
        after = self.reward(hidden.index_select(0, score_at))
        if self.weights is None:
            return JointOutput(critique_loss, direct, after)
        return JointOutput(critique_loss, direct @ self.weights, after @ self.weights, direct, after)

    @property
    def score_vector(self) -> torch.Tensor:
        """`[d_model]` float32: the score of a hidden state is its product with this."""
        weight = self.reward.weight
        return weight if self.weights is None else self.weights @ weight

    @torch.no_grad()
    def teacher_scores(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        direct_at: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
        **_: torch.Tensor,
    ) -> torch.Tensor:
        """`[2b]` float32: the reward before the critique of the frozen base, by the reward that training started from.

        Args: of a batch of `PairCollator`.
        """
        assert isinstance(self.lm, PeftModel)
        with self.lm.disable_adapter():
            hidden = self._hidden(input_ids, attention_mask, position_ids, segments)
        return _reward(hidden.index_select(0, direct_at), self.teacher)

    def _hidden(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor | None,
        segments: torch.Tensor | None,
    ) -> torch.Tensor:
        """`[r * seq, d_model]`: what the LM head sees."""
        mask = attention_mask if segments is None else self._block_mask(segments)
        output = self.lm.get_decoder()(
            input_ids=input_ids, attention_mask=mask, position_ids=position_ids, use_cache=False
        )
        hidden: torch.Tensor = output.last_hidden_state.flatten(0, 1)
        return hidden

    def _critique_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Args: hidden: `[t, d_model]`; targets: `[t]`."""
        if not self.writes:
            return hidden.new_zeros((), dtype=torch.float32)
        logits = self.lm.get_output_embeddings()(hidden).float()  # [t, vocabulary]
        if self.logit_scale != 1:  # the largest tensor there is: not to be copied for nothing
            logits = logits * self.logit_scale
        return F.cross_entropy(logits, targets, reduction="sum")

    def _block_mask(self, segments: torch.Tensor) -> torch.Tensor:
        if self.config.get_text_config()._attn_implementation == "sdpa":
            return block_mask(segments)
        device = segments.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return block_mask(segments, autocast or self.lm.dtype)
