"""`criticrm train` as one of several processes on a CPU that split the weights: `sharded.py CONFIG OUT`.

accelerate keeps FSDP and DeepSpeed to accelerators and gives a CPU DDP instead, though both run there; so it is told
that these processes have GPUs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from accelerate import DistributedType, PartialState

from criticrm_training.training.run import train
from criticrm_training.training.train_config import TrainConfig


def main() -> None:
    torch.set_num_threads(1)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    torch.distributed.init_process_group("gloo")
    train(TrainConfig.read(Path(sys.argv[1])), Path(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # gloo aborts or hangs now and then while its processes are taken down; the checkpoint is written


if __name__ == "__main__":
    main()
