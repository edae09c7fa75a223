"""What a line of the log says of the optimizer steps since the last one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

from .losses import Losses
from .model import JointOutput


@dataclass
class StepLog:
    """Adds up on the device, and asks it for numbers once a line: asking for one makes a GPU wait.

    Attributes:
        steps: optimizer steps since the last line.
    """

    steps: int = 0
    _sums: dict[str, torch.Tensor] = field(default_factory=dict)
    _range: torch.Tensor | None = None  # [2], the lowest reward and the highest one

    def add(self, losses: Losses, metrics: dict[str, torch.Tensor], output: JointOutput) -> None:
        """Add one batch, whose values are shares of its step's means."""
        parts = {
            "critique_loss": losses.critique,
            "reward_loss": losses.reward,
            "direct_loss": losses.direct,
            "distance": losses.distance,
        }
        for name, value in (parts | metrics).items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()
        rewards = torch.cat([output.direct_scores, output.scores]).detach()
        found = torch.stack(rewards.aminmax())
        if self._range is None:
            self._range = found
        else:
            self._range = torch.stack([torch.minimum(self._range, found)[0], torch.maximum(self._range, found)[1]])

    def drain(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over the steps and, of the rewards, the lowest and the highest; then begins anew."""
        if not self._sums or self._range is None:  # nothing was computed
            self.steps = 0
            return {}
        sums, ranges = torch.stack(list(self._sums.values())), self._range[None]
        if accelerator.num_processes > 1:  # each process has its share
            sums, ranges = accelerator.reduce(sums, reduction="sum"), accelerator.gather(ranges)
        line = dict(zip(self._sums, (sums / self.steps).tolist(), strict=True))
        for name in ("margin", "direct_margin"):
            square = line.pop(f"{name}_square")
            line[f"{name}_std"] = max(square - line[name] ** 2, 0.0) ** 0.5
        line["reward_min"], line["reward_max"] = ranges[:, 0].min().item(), ranges[:, 1].max().item()
        self.steps, self._sums, self._range = 0, {}, None
        return line
