"""Preference pairs with their critiques as padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NotRequired, TypedDict

import torch

from criticrm_model.reward import reward_positions

PROMPT, PADDING = 0, -1  # segments of a packed row; its critiques are 1, 2, ...


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


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Pads on the right. A row is a prompt and all critiques of the response: the prompt is computed once for them.

    The keys of a batch of b pairs, in which r rows hold 2b responses (chosen and rejected in turn):

    - `input_ids`, `attention_mask`: `[r, seq]`
    - `position_ids`, `segments`: `[r, seq]`, only where a row holds several critiques. Positions start again behind
      the prompt for each; a critique sees the prompt and itself (`packing.block_mask`).
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

    >>> side = {"prompt_ids": [5, 6], "critiques": [{"token_ids": [7, 8], "learn": True, "reward": True}]}
    >>> bare = {"prompt_ids": [5], "critiques": [{"token_ids": [], "learn": False, "reward": True}]}
    >>> pair = {"chosen": side, "rejected": bare, "margin": 0.0, "agreement": 1.0, "index": 0}
    >>> batch = PairCollator(pad_id=0)([pair])
    >>> batch["input_ids"].tolist(), batch["predicts_at"].tolist(), batch["targets"].tolist()
    ([[5, 6, 7, 8], [5, 0, 0, 0]], [1, 2], [7, 8])
    >>> batch["direct_at"].tolist(), batch["score_at"].tolist()  # without a critique the two are one
    ([1, 4], [2, 4])
    >>> two = {**side, "critiques": [*side["critiques"], {"token_ids": [9], "learn": False, "reward": True}]}
    >>> batch = PairCollator(pad_id=0)([{**pair, "chosen": two}])
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist()
    ([[5, 6, 7, 8, 9], [5, 0, 0, 0, 0]], [[0, 1, 2, 3, 2], [0, 0, 0, 0, 0]])
    >>> batch["score_at"].tolist()  # a critique of one token is predicted where the reward before it is read
    [2, 1, 5]
    >>> batch["side_at"].tolist(), batch["share"].tolist()
    ([0, 0, 1], [0.5, 0.5, 1.0])
    >>> batch["chosen_at"].tolist(), batch["rejected_at"].tolist()
    ([0, 1], [2, 2])
    """

    pad_id: int
    packed: bool = True

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        sides = [side for example in examples for side in (example["chosen"], example["rejected"])]
        rows = [(i, side["prompt_ids"], some) for i, side in enumerate(sides) for some in self._rows(side["critiques"])]
        lengths = [len(prompt) + sum(len(c["token_ids"]) for c in critiques) for _, prompt, critiques in rows]
        width = max(lengths)
        input_ids = torch.full((len(rows), width), self.pad_id)
        attention_mask = torch.zeros_like(input_ids)
        position_ids = torch.zeros_like(input_ids)
        segments = torch.full_like(input_ids, PADDING)
        predicts_at: list[int] = []
        targets: list[int] = []
        direct_at: dict[int, int] = {}  # by side
        scored: list[list[int]] = [[] for _ in range(2 * len(examples))]
        score_at: list[int] = []
        for row, (side, prompt, critiques) in enumerate(rows):
            ids, positions, of = [*prompt], [*range(len(prompt))], [PROMPT] * len(prompt)
            start = row * width
            direct = start + reward_positions(len(prompt), 1)[0]
            direct_at.setdefault(side, direct)
            for number, critique in enumerate(critiques, 1):
                tokens = critique["token_ids"]
                # The prompt's last token predicts a critique's first one, and each of its tokens the next.
                predicting = [direct, *range(start + len(ids), start + len(ids) + len(tokens) - 1)]
                if critique["learn"]:
                    predicts_at += predicting[: len(tokens)]
                    targets += tokens
                if critique["reward"]:
                    after = reward_positions(len(prompt), max(len(tokens), 1))[1] - (len(prompt) - 1)
                    scored[side].append(len(score_at))
                    score_at.append(predicting[after])
                ids += tokens
                positions += range(len(prompt), len(prompt) + len(tokens))
                of += [number] * len(tokens)
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = 1
            position_ids[row, : len(ids)] = torch.tensor(positions)
            segments[row, : len(ids)] = torch.tensor(of)
        by_pair = list(zip(scored[0::2], scored[1::2], strict=True))
        couples = [couple for chosen, rejected in by_pair for couple in product(chosen, rejected)]
        judged = sum(bool(chosen and rejected) for chosen, rejected in by_pair)
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "predicts_at": torch.tensor(predicts_at, dtype=torch.long),
            "targets": torch.tensor(targets, dtype=torch.long),
            "direct_at": torch.tensor([direct_at[side] for side in range(2 * len(examples))]),
            "score_at": torch.tensor(score_at, dtype=torch.long),
            "side_at": torch.tensor([side for side, of in enumerate(scored) for _ in of], dtype=torch.long),
            "share": torch.tensor([1 / len(of) for of in scored for _ in of], dtype=torch.float32),
            "chosen_at": torch.tensor([chosen for chosen, _ in couples], dtype=torch.long),
            "rejected_at": torch.tensor([rejected for _, rejected in couples], dtype=torch.long),
            "margin": torch.tensor([float(e["margin"]) for e in examples]),
            "agreement": torch.tensor([float(e["agreement"]) for e in examples]),
            "index": torch.tensor([e["index"] for e in examples]),
            "counts": torch.tensor([len(targets), judged, len(examples), sum(lengths)]),
        }
        if any(sum(bool(c["token_ids"]) for c in critiques) > 1 for *_, critiques in rows):
            batch |= {"position_ids": position_ids, "segments": segments}
        return batch | _labels(examples)

    def _rows(self, critiques: Sequence[CritiqueTokens]) -> Iterator[Sequence[CritiqueTokens]]:
        """The critiques of each row of a response."""
        if self.packed or len(critiques) < 2:
            yield critiques
        else:
            yield from ([critique] for critique in critiques)


def _labels(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    if not examples[0].get("labels"):
        return {}
    return {"labels": torch.tensor([e["labels"] for e in examples], dtype=torch.float32)}
