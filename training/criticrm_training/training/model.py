"""A language model with a reward head: one forward pass gives the critique loss and both rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from .collator import IGNORED


@dataclass(frozen=True)  # without slots: ZeRO-3 looks for the tensors in `vars` of it
class JointOutput:
    """What the objective is made of, for a batch of b pairs.

    Attributes:
        critique_loss: summed over the critique tokens, in nats.
        direct_scores, scores: `[2b]` float32, before and after the critique; chosen and rejected in turn.
    """

    critique_loss: torch.Tensor
    direct_scores: torch.Tensor
    scores: torch.Tensor


class RewardHead(nn.Module):
    """The reward of a hidden state: linear, in float32.

    A module of its own, since FSDP and ZeRO-3 gather weights by module. They may gather this one in bfloat16, which
    is how a bfloat16 checkpoint holds it; the weight that the optimizer moves is in float32 always.
    """

    def __init__(self, d_model: int, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d_model, dtype=torch.float32, device=device))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Args: hidden: `[n, d_model]`. Returns `[n]` float32."""
        return _reward(hidden, self.weight)


def _reward(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return hidden.float() @ weight.float()


class JointModel(nn.Module):
    """A causal LM, perhaps under adapters, and a linear reward head in float32 on what its LM head sees.

    The LM head runs at the positions that predict a critique token and nowhere else, so the critique loss costs
    little beside the reward alone. On export the head becomes the row of the reward token (docs/adr/0001).

    Attributes:
        teacher: `[d_model]` float32, the reward that training started from, for `teacher_scores`.

    Args:
        lm: its vocabulary is still the base's: the critique loss knows no reward token.
        logit_scale: what the architecture multiplies its logits with (Granite, Cohere), else 1.
    """

    teacher: torch.Tensor

    def __init__(self, lm: PreTrainedModel | PeftModel, logit_scale: float = 1.0) -> None:
        super().__init__()
        self.lm = lm
        self.logit_scale = logit_scale
        head = lm.get_output_embeddings()  # `in_features`: under ZeRO-3 the weight itself is empty here
        self.reward = RewardHead(head.in_features, head.weight.device)
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
        labels: torch.Tensor,
        direct_at: torch.Tensor,
        score_at: torch.Tensor,
    ) -> JointOutput:
        """Args: a batch of `PairCollator`."""
        hidden = self.lm.get_decoder()(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state  # [2b, seq, d_model]
        critique_loss = self._critique_loss(hidden, labels)
        rows = torch.arange(len(hidden), device=hidden.device)
        direct_scores, scores = self.reward(hidden[rows, direct_at]), self.reward(hidden[rows, score_at])
        return JointOutput(critique_loss, direct_scores, scores)

    @torch.no_grad()
    def teacher_scores(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, direct_at: torch.Tensor, **_: torch.Tensor
    ) -> torch.Tensor:
        """`[2b]` float32: the reward before the critique of the frozen base, by the reward that training started from.

        Args: of a batch of `PairCollator`.
        """
        assert isinstance(self.lm, PeftModel)
        prompts = slice(int(direct_at.max()) + 1)
        with self.lm.disable_adapter():
            hidden = self.lm.get_decoder()(
                input_ids=input_ids[:, prompts], attention_mask=attention_mask[:, prompts], use_cache=False
            ).last_hidden_state
        rows = torch.arange(len(hidden), device=hidden.device)
        return _reward(hidden[rows, direct_at], self.teacher)

    def _critique_loss(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        targets = labels[:, 1:]
        predicting = targets != IGNORED  # [2b, seq - 1]
        if not predicting.any():  # the scalar baseline, in all processes alike: spares it a copy of the LM head
            return hidden.new_zeros((), dtype=torch.float32)
        logits = self.lm.get_output_embeddings()(hidden[:, :-1][predicting]).float()  # [critique tokens, vocabulary]
        if self.logit_scale != 1:  # the largest tensor there is: not to be copied for nothing
            logits = logits * self.logit_scale
        return F.cross_entropy(logits, targets[predicting], reduction="sum")
