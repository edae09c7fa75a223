"""Batches by length, and examples in Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from criticrm_training.training.collator import Example, PairCollator
from criticrm_training.training.dataset import as_dataset
from criticrm_training.training.sampler import LengthSampler
from criticrm_training.training.trainer import JointTrainer
from support.joint import EXAMPLES, fit, with_more_critiques

LENGTHS = torch.randint(10, 500, (1003,), generator=torch.Generator().manual_seed(0)).tolist()


def padding(order: list[int], batch: int) -> float:
    """Share of a batch's tokens that are padding."""
    groups = [[LENGTHS[i] for i in order[start : start + batch]] for start in range(0, len(order), batch)]
    return 1 - sum(LENGTHS) / sum(max(group) * len(group) for group in groups)


def test_like_lengths_come_together() -> None:
    order = list(LengthSampler(LENGTHS, 4, seed=0))
    assert sorted(order) == list(range(len(LENGTHS)))
    assert padding(list(range(len(LENGTHS))), 4) > 0.3
    assert padding(order, 4) < 0.03
    means = [sum(LENGTHS[i] for i in order[start : start + 100]) / 100 for start in range(0, 1000, 100)]
    assert max(means) - min(means) < 150  # long and short batches in turn, not sorted over the epoch


def test_the_order_follows_from_seed_and_epoch() -> None:
    first, again, other = (LengthSampler(LENGTHS, 4, seed=seed) for seed in (0, 0, 1))
    torch.manual_seed(5)
    assert list(first) == list(again) != list(other)
    again.set_epoch(1)
    assert list(first) != list(again)
    first.set_epoch(1)
    assert list(first) == list(again)


@pytest.mark.slow
def test_a_run_that_goes_on_within_an_epoch_takes_the_batches_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an accumulation, in the second epoch."""
    settings: dict[str, Any] = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 11,
    }
    seen: list[list[int]] = []
    take = JointTrainer.get_batch_samples

    def noting(self: Any, iterator: Iterator[Any], count: int, device: Any) -> Any:
        batches, counts = take(self, iterator, count, device)
        seen.append([i for batch in batches for i in batch["index"].tolist()])
        return batches, counts

    monkeypatch.setattr(JointTrainer, "get_batch_samples", noting)
    fit(tmp_path / "whole", **settings)
    whole, seen[:] = seen[:], []
    assert len(whole) == 16
    assert sorted(chain(*whole[:8])) == sorted(chain(*whole[8:])) == list(range(64))
    assert whole[:8] != whole[8:]
    (saved,) = (tmp_path / "whole").glob("checkpoint-11")
    fit(tmp_path / "again", resume=str(saved), **settings)
    assert seen == whole[11:]


def test_examples_are_32_bit_integers_in_arrow() -> None:
    examples: list[Example] = [with_more_critiques(example, seed) for seed, example in enumerate(EXAMPLES[:4])]
    dataset = as_dataset(examples)
    tokens = dataset.data.schema.field("chosen").type.field("prompt_ids").type
    assert tokens == pa.list_(pa.int32())
    lengths = dataset["length"]
    rows = [{key: value for key, value in row.items() if key != "length"} for row in dataset]
    assert rows == [{"labels": [], **example} for example in examples]
    batch = PairCollator(pad_id=0)(rows)  # type: ignore[arg-type]  # what the loader gives it
    assert sum(lengths) == batch["counts"][3]
