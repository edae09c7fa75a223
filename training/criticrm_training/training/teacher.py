"""The scores of the teacher, which don't change while a model is trained: computed once."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer

from .dataset import without_critiques


def teacher_scores(trainer: Trainer) -> torch.Tensor:
    """`[examples, 2]` float32, by `JointModel.teacher_scores`. Every process computes its share.

    Args:
        trainer: of a `JointModel` on a dataset of `as_dataset`.
    """
    model, dataset, args = trainer.accelerator.unwrap_model(trainer.model), trainer.train_dataset, trainer.args
    lengths: list[int] = list(dataset["length"])  # type: ignore[index]  # a `datasets.Dataset`
    n, processes, size = len(lengths), args.world_size, args.per_device_train_batch_size
    order = sorted(range(n), key=lengths.__getitem__, reverse=True)
    order += order[: -n % processes]  # as many for each process, which gather weights together
    mine = order[args.process_index :: processes]
    scores = torch.zeros(n, 2, device=args.device)
    was_training = model.training
    model.eval()
    for start in range(0, len(mine), size):
        examples: list[Any] = [without_critiques(dataset[i]) for i in mine[start : start + size]]  # type: ignore[index]
        batch = trainer._prepare_inputs(trainer.data_collator(examples))
        with trainer.accelerator.autocast():  # else around the model's `forward` alone
            scores[batch["index"]] = model.teacher_scores(**batch).view(-1, 2)
    model.train(was_training)
    if processes > 1:
        copies = torch.zeros(n, 1, device=scores.device)
        copies[mine] = 1
        scores = trainer.accelerator.reduce(scores) / trainer.accelerator.reduce(copies)
    return scores
