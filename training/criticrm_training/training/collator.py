"""Preference pairs with critiques as padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch

from criticrm_model.reward import reward_positions

IGNORED = -100  # torch's cross entropy leaves these targets out


class Side(TypedDict):
    """One response of a pair: the rendered prompt, and the critique with the token that ends it."""

    prompt_ids: list[int]
    critique_ids: list[int]


class Example(TypedDict):
    """A preference pair ready for training."""

    chosen: Side
    rejected: Side


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Pads pairs on the right: rows `2i` and `2i + 1` are the chosen and the rejected response of pair `i`.

    The keys of a batch of b pairs:

    - `input_ids`, `attention_mask`: `[2b, seq]`
    - `labels`: `[2b, seq]`, the critique's tokens at their own positions, elsewhere `IGNORED`: no gradient of the
      critique loss comes from predicting a prompt or a response
    - `direct_at`, `score_at`: `[2b]`, where the reward is read before and after the critique

    >>> side = {"prompt_ids": [5, 6], "critique_ids": [7, 8]}
    >>> bare = {"prompt_ids": [5], "critique_ids": []}
    >>> batch = PairCollator(pad_id=0)([{"chosen": side, "rejected": bare}])
    >>> batch["input_ids"].tolist(), batch["labels"].tolist()
    ([[5, 6, 7, 8], [5, 0, 0, 0]], [[-100, -100, 7, 8], [-100, -100, -100, -100]])
    >>> batch["direct_at"].tolist(), batch["score_at"].tolist()  # without a critique the two are one
    ([1, 0], [2, 0])
    """

    pad_id: int

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        sides = [side for example in examples for side in (example["chosen"], example["rejected"])]
        width = max(len(s["prompt_ids"]) + len(s["critique_ids"]) for s in sides)
        input_ids = torch.full((len(sides), width), self.pad_id)
        attention_mask = torch.zeros_like(input_ids)
        labels = torch.full_like(input_ids, IGNORED)
        positions = []
        for row, side in enumerate(sides):
            prompt, critique = side["prompt_ids"], side["critique_ids"]
            length = len(prompt) + len(critique)
            input_ids[row, :length] = torch.tensor([*prompt, *critique])
            attention_mask[row, :length] = 1
            labels[row, len(prompt) : length] = torch.tensor(critique, dtype=torch.long)
            positions.append(reward_positions(len(prompt), max(len(critique), 1)))
        direct_at, score_at = torch.tensor(positions).unbind(1)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
            "direct_at": direct_at,
            "score_at": score_at,
        }
