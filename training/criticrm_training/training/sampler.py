"""Batches of pairs of like length: what is padded is computed for nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

_BATCHES_SORTED = 50  # together: enough for like lengths, few enough for other batches in each epoch


class LengthSampler(Sampler[int]):
    """Indexes in the order of batches of like length, the batches in random order.

    The order follows from the seed and the epoch alone, so that a run that goes on within an epoch goes on with the
    batches that are left. An optimizer step that accumulates batches mixes lengths.

    Args:
        lengths: of each example, in tokens.
        batch_size: examples in a batch; the one that isn't full comes last.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = torch.as_tensor(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((1_000_003 * self._seed + self._epoch) % 2**32)
        order = torch.randperm(len(self), generator=generator)
        batches = [
            batch
            for chunk in order.split(self._batch_size * _BATCHES_SORTED)
            for batch in chunk[self._lengths[chunk].argsort(descending=True, stable=True)].split(self._batch_size)
        ]
        full = [batch for batch in batches if len(batch) == self._batch_size]
        rest = [batch for batch in batches if len(batch) < self._batch_size]
        shuffled = [full[i] for i in torch.randperm(len(full), generator=generator).tolist()]
        for batch in [*shuffled, *rest]:
            yield from batch.tolist()
