"""A trained critic's adapter and reward become the embedded default's, in bfloat16: half the size.

    python examples/default/adopt.py critic

The model card (README.md there) is written by hand.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from criticrm_model.default import ADAPTER

_WEIGHTS = "adapter_model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("critic", type=Path, help="a finished `criticrm train` with LoRA")
    trained = parser.parse_args().critic / "adapter"
    for name in ("adapter_config.json", "reward.json", "reward.safetensors"):
        shutil.copyfile(trained / name, ADAPTER / name)
    weights = {name: weight.to(torch.bfloat16) for name, weight in load_file(trained / _WEIGHTS).items()}
    save_file(weights, ADAPTER / _WEIGHTS, metadata={"format": "pt"})
    print(f"{sum(path.stat().st_size for path in ADAPTER.iterdir()) / 1e6:.1f} MB in {ADAPTER}")


if __name__ == "__main__":
    main()
