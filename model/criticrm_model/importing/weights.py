"""The stored tensors of a model's folder, by name, each read when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")
_VALUE_HEADS = ("value_head.safetensors", "value_head.bin")  # LLaMA-Factory keeps the head in a file of its own


class StoredWeights:
    """Names, shapes and values of a folder's tensors: safetensors or torch files, in one file or in shards.

    Raises:
        CheckpointError: there are none, or they can't be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._loaded: dict[Path, dict[str, torch.Tensor]] = {}
        try:
            for file in _weight_files(folder):
                self._register(file)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: the weights can't be read: {error}") from error
        if not self._files:
            raise CheckpointError(f"{folder} has no weights (model.safetensors or pytorch_model.bin, or their shards)")

    @property
    def names(self) -> Iterable[str]:
        return self._files.keys()

    @property
    def count(self) -> int:
        """How many numbers they are."""
        return sum(map(prod, self._shapes.values()))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str) -> torch.Tensor:
        file = self._files[name]
        if file in self._loaded:
            return self._loaded[file][name]
        with safe_open(file, framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
            return tensor

    def _register(self, file: Path) -> None:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no dict
                    self._files[name], self._shapes[name] = file, tuple(opened.get_slice(name).get_shape())
            return
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        self._loaded[file] = tensors
        for name, tensor in tensors.items():
            self._files[name], self._shapes[name] = file, tuple(tensor.shape)


def _weight_files(folder: Path) -> list[Path]:
    for index in _INDEXES:
        if (folder / index).is_file():
            named = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()
            found = [folder / name for name in sorted(set(named))]
            break
    else:
        found = [folder / name for name in _SINGLES if (folder / name).is_file()][:1] or sorted(folder.glob("*.pt"))[:1]
    return found + [folder / name for name in _VALUE_HEADS if (folder / name).is_file()][:1]
