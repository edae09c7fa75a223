"""Weights that lie in parts on several processes, under FSDP2 or DeepSpeed's ZeRO-3: what is trained of them, whole.

A run's checkpoints and the exported model are made of whole weights; nothing but this module knows of parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import disable_fsdp_ram_efficient_loading, enable_fsdp_ram_efficient_loading
from safetensors import safe_open
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

from criticrm_model import CheckpointError

_WRAPPER = "_checkpoint_wrapped_module."  # what FSDP's activation checkpointing puts into names


def splits_weights(arguments: TrainingArguments) -> bool:
    """Whether no process has all of the model while it trains."""
    return bool(arguments.fsdp) or is_deepspeed_zero3_enabled()


@contextmanager
def loading(arguments: TrainingArguments | None) -> Iterator[str | None]:
    """While a model is loaded for a run; yields the device to load it on.

    Under FSDP with `cpu_ram_efficient_loading` the first process reads the weights and sends the others their parts;
    ZeRO-3 splits them as they are read.

    Args:
        arguments: None for a model that one process has all of, whatever the run was.
    """
    if arguments is None:
        unset_hf_deepspeed_config()  # else from_pretrained splits it
        yield "auto"
    elif not splits_weights(arguments):
        yield None
    else:
        one_reads = bool((arguments.fsdp_plugin_args or {}).get("cpu_ram_efficient_loading"))
        if one_reads:
            enable_fsdp_ram_efficient_loading()
        try:
            yield "cpu"
        finally:
            if one_reads:
                disable_fsdp_ram_efficient_loading()


def trained_weights(model: torch.nn.Module, keep: bool = True) -> dict[str, torch.Tensor]:
    """What is trained, whole and on the CPU, tied weights once. Every process must call this at the same time.

    Args:
        keep: on one process; the others help and get nothing.
    """
    weights = {}
    for name, parameter in _trained(model):
        whole = _whole(parameter)  # one at a time: a device never holds more than one of them
        if keep:
            weights[name] = whole.detach().cpu().clone()
    return weights


def load_trained(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Put whole weights into what is trained; nothing else is touched. Under FSDP every process takes its parts.

    Raises:
        CheckpointError: these are weights of another model.
    """
    _load(model, weights.keys(), weights.__getitem__)


def load_trained_file(model: torch.nn.Module, file: Path) -> None:
    """The same from a safetensors file, one weight in memory at a time. Raises CheckpointError."""
    with safe_open(file, framework="pt") as opened:
        _load(model, opened.keys(), opened.get_tensor)


def _load(model: torch.nn.Module, names: Iterable[str], read: Callable[[str], torch.Tensor]) -> None:
    trained = dict(_trained(model))
    wrong = sorted(trained.keys() ^ set(names))
    for name, parameter in trained.items() if not wrong else ():
        value = read(name)
        if value.shape != parameter.shape:
            wrong.append(name)
            continue
        value = value.to(parameter.device, parameter.dtype)
        if isinstance(parameter, DTensor):
            # No source: each process has read the whole, and keeps its part.
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
        with torch.no_grad():
            parameter.copy_(value)
    if wrong:
        raise CheckpointError(f"the run's checkpoint does not fit its model: {', '.join(wrong[:5])}")


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # an evaluation leaves some weights whole: copies, not what is trained
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name.replace(_WRAPPER, ""), parameter


def _whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    if isinstance(parameter, DTensor):
        return parameter.full_tensor()
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter
