"""The reward head's own parameter group, and gradients that are clipped by part.

The head's gradients are of another scale than those of adapters or of a body: under one norm the larger part leaves the
other nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import Trainer

from .critic_config import CriticConfig
from .train_config import ConfigError

HEAD = "reward.weight"


class PartsTrainer(Trainer):
    """Tells the reward head from the body (adapters, or all of the language model).

    Attributes:
        norms: of the gradients of the last step before they were clipped, by part.
    """

    args: CriticConfig
    norms: dict[str, torch.Tensor]
    trains_head = True  # False: the head takes no part in this step, and its moments begin with its first one

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's, with the head moved to a group of its own.

        Raises:
            ConfigError: there is no such optimizer here, or it knows no such groups.
        """
        created = self.optimizer is not None
        try:
            optimizer = super().create_optimizer(model)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"optim: {error}") from error
        if created:
            return optimizer
        head = _parts(model or self.model)["head"]
        owned = {id(parameter) for parameter in head}
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError("deepspeed.optimizer: leave it out, so that `optim` and `head_learning_rate` are used")
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in owned]
        rate = self.args.learning_rate if self.args.head_learning_rate is None else self.args.head_learning_rate
        optimizer.add_param_group({"params": head, "lr": rate, "weight_decay": self.args.head_weight_decay})
        return optimizer

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        return self._norm_by_part(model, self.args.max_grad_norm)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The norm before clipping; nothing is clipped where `max_grad_norm` is 0."""
        return self._norm_by_part(model, float("inf")) if grad_norm is None else grad_norm

    def _norm_by_part(self, model: torch.nn.Module, most: float) -> Any:
        if self.is_deepspeed_enabled:  # clips by itself, all parts together
            return self.accelerator.clip_grad_norm_(model.parameters(), most)
        self.accelerator.unscale_gradients()
        parts = _parts(model)
        if not self.trains_head:
            for parameter in parts["head"]:
                parameter.grad = None
        self.norms = {part: _clip(parameters, most).to(self.args.device) for part, parameters in parts.items()}
        return torch.stack(list(self.norms.values())).norm()


def _clip(parameters: list[torch.nn.Parameter], most: float) -> torch.Tensor:
    """Returns the norm before. No number yet: asking for one makes a GPU wait."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, most)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _parts(model: Any) -> dict[str, list[torch.nn.Parameter]]:
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    head = [parameter for name, parameter in trained if name.endswith(HEAD)]
    return {"head": head, "body": [parameter for name, parameter in trained if not name.endswith(HEAD)]}
