"""Preference pairs with their critiques as padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NotRequired, TypedDict

import torch

from criticrm_model.reward import reward_positions

from .packing import PADDING, SHARED, Row, is_worth_sharing, shared_length


class CritiqueTokens(TypedDict):
    """A critique, with the token that ends it.

    `learn`: it is a target of the critique loss. `reward`: the reward loss reads the reward after it; after an empty
    critique that is the reward before any.
    """

    token_ids: list[int]
    learn: bool
    reward: bool


class Side(TypedDict):
    """One response of a pair: the rendered prompt, and the critiques of the response."""

    prompt_ids: list[int]
    critiques: list[CritiqueTokens]


class Example(TypedDict):
    """A preference pair ready for training.

    `index`: its place among the training examples. `margin`: what the chosen reward should exceed the rejected one by.
    `agreement`: the probability that the label is right. `labels`: of several rewards, `PreferencePair.labels` in their
    order, NaN where there is none; else empty.
    """

    chosen: Side
    rejected: Side
    margin: float
    agreement: float
    index: int
    labels: NotRequired[list[float]]


def count_tokens(side: Side) -> int:
    """Of the prompt and all critiques."""
    return len(side["prompt_ids"]) + sum(len(critique["token_ids"]) for critique in side["critiques"])


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Pads on the right. What a pair's prompts begin with alike is computed once, as is a prompt for all its critiques.

    The keys of a batch of b pairs, in r rows (chosen and rejected in turn; both in one row where that costs less):

    - `input_ids`, `attention_mask`: `[r, seq]`
    - `position_ids` `[r, seq]`, `segments` `[r, seq, 2]`: only where a row holds several responses or critiques.
      Positions go on from the end of what is shared for each; a token sees what is shared and what is of its own
      response and critique (`packing.block_mask`).
    - `predicts_at`, `targets`: `[t]`, the critique loss: the tokens of critiques with `learn`, and where each is
      predicted, as an index into the flattened `[r * seq]`
    - `direct_at`: `[2b]`, where the reward before the critique is read; `score_at`: `[n]`, after each critique with
      `reward`. Flat, too.
    - `side_at`, `share`: `[n]`, the response (of 2b) that each of these critiques is of, and one over how many of
      them this response has
    - `chosen_at`, `rejected_at`: `[m]`, each pair of one chosen and one rejected critique of a preference pair, as
      indexes into `score_at`: K critiques a response give K^2 of them
    - `margin`, `agreement`, `index`: `[b]`
    - `labels`: `[b, rewards]`, only where there are several rewards
    - `counts`: `[4]`: t; preference pairs with `reward` critiques on both sides; b; tokens without padding

    Args:
        packed: False gives each critique a row of its own, with a copy of the prompt, for an attention that takes no
            mask.
        d_model: of the model, by which it is reckoned whether a pair is cheaper in one row; 0: never shares a prompt.

    >>> side = {"prompt_ids": [5, 6], "critiques": [{"token_ids": [7, 8], "learn": True, "reward": True}]}
    >>> bare = {"prompt_ids": [5, 4], "critiques": [{"token_ids": [], "learn": False, "reward": True}]}
    >>> pair = {"chosen": side, "rejected": bare, "margin": 0.0, "agreement": 1.0, "index": 0}
    >>> batch = PairCollator(pad_id=0)([pair])
    >>> batch["input_ids"].tolist(), batch["predicts_at"].tolist(), batch["targets"].tolist()
    ([[5, 6, 7, 8], [5, 4, 0, 0]], [1, 2], [7, 8])
    >>> batch["direct_at"].tolist(), batch["score_at"].tolist()  # without a critique the two are one
    ([1, 5], [2, 5])
    >>> two = {**side, "critiques": [*side["critiques"], {"token_ids": [9], "learn": False, "reward": True}]}
    >>> batch = PairCollator(pad_id=0)([{**pair, "chosen": two}])
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist()
    ([[5, 6, 7, 8, 9], [5, 4, 0, 0, 0]], [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]])
    >>> batch["score_at"].tolist()  # a critique of one token is predicted where the reward before it is read
    [2, 1, 6]
    >>> batch["side_at"].tolist(), batch["share"].tolist()
    ([0, 0, 1], [0.5, 0.5, 1.0])
    >>> batch["chosen_at"].tolist(), batch["rejected_at"].tolist()
    ([0, 1], [2, 2])
    >>> batch = PairCollator(pad_id=0, d_model=8)([pair])  # the pair in one row, what is the same in it once
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist(), batch["direct_at"].tolist()
    ([[5, 6, 7, 8, 4]], [[0, 1, 2, 3, 1]], [1, 4])
    """

    pad_id: int
    packed: bool = True
    d_model: int = 0

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        sides = [side for example in examples for side in (example["chosen"], example["rejected"])]
        laid = _Layout()
        for chosen, rejected in zip(sides[0::2], sides[1::2], strict=True):
            self._lay_pair(laid, chosen, rejected)
        width = max(len(row.token_ids) for row in laid.rows)
        by_pair = list(zip(laid.scored[0::2], laid.scored[1::2], strict=True))
        couples = [couple for chosen, rejected in by_pair for couple in product(chosen, rejected)]
        judged = sum(bool(chosen and rejected) for chosen, rejected in by_pair)
        batch = _padded(laid.rows, width, self.pad_id) | {
            "predicts_at": _flat(laid.predicts_at, width),
            "targets": torch.tensor(laid.targets, dtype=torch.long),
            "direct_at": _flat(laid.direct_at, width),
            "score_at": _flat(laid.score_at, width),
            "side_at": torch.tensor([side for side, of in enumerate(laid.scored) for _ in of], dtype=torch.long),
            "share": torch.tensor([1 / len(of) for of in laid.scored for _ in of], dtype=torch.float32),
            "chosen_at": torch.tensor([chosen for chosen, _ in couples], dtype=torch.long),
            "rejected_at": torch.tensor([rejected for _, rejected in couples], dtype=torch.long),
            "margin": torch.tensor([float(e["margin"]) for e in examples]),
            "agreement": torch.tensor([float(e["agreement"]) for e in examples]),
            "index": torch.tensor([e["index"] for e in examples]),
            "counts": torch.tensor(
                [len(laid.targets), judged, len(examples), sum(len(row.token_ids) for row in laid.rows)]
            ),
        }
        return batch | _labels(examples)

    def _lay_pair(self, laid: _Layout, chosen: Side, rejected: Side) -> None:
        shared = shared_length(chosen["prompt_ids"], rejected["prompt_ids"]) if self.packed and self.d_model else 0
        if shared and is_worth_sharing(
            shared, count_tokens(chosen) - shared, count_tokens(rejected) - shared, self.d_model
        ):
            laid.open_row().put(chosen["prompt_ids"][:shared], 0)
            laid.lay(chosen, shared, response=1)
            laid.lay(rejected, shared, response=2)
            return
        for side in (chosen, rejected):
            laid.open_row()
            laid.lay(side, 0, apart=not self.packed)


class _Layout:
    """The rows of a batch, and where in them (`(row, column)`) what is learned and read lies."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.predicts_at: list[tuple[int, int]] = []
        self.targets: list[int] = []
        self.direct_at: list[tuple[int, int]] = []  # of each side
        self.score_at: list[tuple[int, int]] = []
        self.scored: list[list[int]] = []  # of each side, its places in `score_at`

    def open_row(self) -> Row:
        self.rows.append(Row())
        return self.rows[-1]

    def lay(self, side: Side, shared: int, response: int = SHARED, *, apart: bool = False) -> None:
        """The rest of a side whose first `shared` tokens the last row begins with.

        Args:
            apart: each critique in a row of its own, with a copy of the prompt; `shared` is 0 then.
        """
        prompt = side["prompt_ids"]
        direct = self._end_of(self.rows[-1].put(prompt[shared:], shared, response))
        self.direct_at.append(direct)
        self.scored.append([])
        for number, critique in enumerate(side["critiques"], 1):
            if apart and number > 1:
                direct = self._end_of(self.open_row().put(prompt, 0))
            tokens = critique["token_ids"]
            places = self.rows[-1].put(tokens, len(prompt), response, number)
            # The prompt's last token predicts a critique's first one, and each of its tokens the next.
            predicting = [direct, *((len(self.rows) - 1, column) for column in places[:-1])]
            if critique["learn"]:
                self.predicts_at += predicting[: len(tokens)]
                self.targets += tokens
            if critique["reward"]:
                before, after = reward_positions(len(prompt), max(len(tokens), 1))
                self.scored[-1].append(len(self.score_at))
                self.score_at.append(predicting[after - before])

    def _end_of(self, prompt: range) -> tuple[int, int]:
        return len(self.rows) - 1, prompt[-1]


def _flat(places: Sequence[tuple[int, int]], width: int) -> torch.Tensor:
    return torch.tensor([row * width + column for row, column in places], dtype=torch.long)


def _padded(rows: Sequence[Row], width: int, pad_id: int) -> dict[str, torch.Tensor]:
    input_ids = torch.full((len(rows), width), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    position_ids = torch.zeros_like(input_ids)
    segments = torch.full((len(rows), width, 2), PADDING)
    for i, row in enumerate(rows):
        length = len(row.token_ids)
        input_ids[i, :length] = torch.tensor(row.token_ids)
        attention_mask[i, :length] = 1
        position_ids[i, :length] = torch.tensor(row.positions)
        segments[i, :length] = torch.tensor(row.segments)
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    if any(row.positions != [*range(len(row.positions))] for row in rows):
        batch |= {"position_ids": position_ids, "segments": segments}
    return batch


def _labels(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    if not examples[0].get("labels"):
        return {}
    return {"labels": torch.tensor([e["labels"] for e in examples], dtype=torch.float32)}
