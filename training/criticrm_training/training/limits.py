"""Values of a `CriticConfig` with which no run could go on, named before one begins."""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch.distributed import Backend
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.checkpoint import checkpoint
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_utils import SchedulerType

_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
_ANY_KIND = ("fsdp",)  # true is taken as well, whatever its annotation says
_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": 1,
    "max_model_len": 1,
    "max_critique_tokens": 1,
    "calibration_pairs": 1,
    "fresh_critique_pairs": 0,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "seed": 0,
    "data_seed": 0,
    "learning_rate": 0,
    "head_learning_rate": 0,
    "warmup_steps": 0,
    "weight_decay": 0,
    "head_weight_decay": 0,
    "max_grad_norm": 0,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "adam_epsilon": 0,
}
_BELOW = {"adam_beta1": 1, "adam_beta2": 1, "seed": 2**32, "data_seed": 2**32}
_POSITIVE = ("num_train_epochs", "neftune_noise_alpha")
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "detail", "passive")
_CHOICES = {
    "train_sampling_strategy": ("group_by_length", "random", "sequential", "batch_rebalance"),
    "overlong": ("drop", "truncate", "error"),
    "cut": ("none", "random"),
    "dtype": ("float32", "bfloat16"),
    "metric_for_best_model": ("accuracy", "direct_accuracy", "loss"),
    "log_level": _LOG_LEVELS,
    "log_level_replica": _LOG_LEVELS,
    "dataloader_multiprocessing_context": ("fork", "spawn", "forkserver"),
    "ddp_backend": tuple(name for name in Backend.backend_list if name not in (Backend.UNDEFINED, "fake")),
}
_OF_WORKERS = ("dataloader_prefetch_factor", "dataloader_multiprocessing_context")
_MAPPINGS = ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "accelerator_config", "fsdp_config")
_FILES = ("accelerator_config", "fsdp_config")  # of these mappings, those that may be the name of a JSON file


def limit_faults(args: Any) -> Iterator[str]:
    """Each field that is of another kind than it must be or outside of its limits, with what it may be."""
    wrong = _of_another_kind(args)
    yield from wrong.values()
    for name in [*_LEAST, *_POSITIVE, *_CHOICES]:
        value = getattr(args, name)
        if name in wrong or value is None:
            continue
        if name in _CHOICES:
            if str(value).removeprefix("eval_") not in _CHOICES[name]:
                yield f"{name}: {value!r} is none of {', '.join(_CHOICES[name])}"
        elif name in _POSITIVE:
            if value <= 0 and not (name == "num_train_epochs" and "max_steps" not in wrong and args.max_steps > 0):
                yield f"{name}: {value} is not above 0"
        elif value < _LEAST[name]:
            yield f"{name}: {value} is below {_LEAST[name]}"
        elif name in _BELOW and value >= _BELOW[name]:
            yield f"{name}: {value} is not below {_BELOW[name]}"
    for name in ("learning_rate", "head_learning_rate") if args.head is None else ():
        if getattr(args, name) == 0:
            yield f"{name}: 0 would leave the reward at zero; give a `head` to start from, or a rate"
    for name in _OF_WORKERS if args.dataloader_num_workers == 0 else ():
        if getattr(args, name):
            yield f"{name}: there are no workers; set dataloader_num_workers above 0"
    yield from _mapping_faults(args)
    reports = args.report_to if isinstance(args.report_to, list | tuple) else [args.report_to]
    known = get_available_reporting_integrations()
    for name in reports:
        if name not in (None, "none", "all", *known):
            yield f"report_to: {name!r} is not installed, or unknown; there are {', '.join(sorted(known)) or 'none'}"


def _of_another_kind(args: Any) -> dict[str, str]:
    """Faults by field, of those that are numbers, text or switches by their annotation.

    YAML's "false" in quotes would be true otherwise, and a number in quotes an error in the middle of a run.
    """
    faults = {}
    for name, hint in get_type_hints(type(args)).items():
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        kinds = [kind for kind in members if kind is not NoneType]
        if name in _ANY_KIND or not all(kind in _KINDS for kind in kinds):
            continue
        value = getattr(args, name)
        if not (value is None and NoneType in members) and not any(_is_kind(value, kind) for kind in kinds):
            faults[name] = f"{name}: {value!r} is not {' or '.join(_KINDS[kind] for kind in kinds)}"
    return faults


def _is_kind(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is str:
        return isinstance(value, str | os.PathLike)
    return isinstance(value, Integral) if kind is int else isinstance(value, Real) and math.isfinite(value)


def _mapping_faults(args: Any) -> Iterator[str]:
    """What is no mapping, or has keys that nothing takes."""
    options = {"lr_scheduler_kwargs": _scheduler_options(args), "gradient_checkpointing_kwargs": _CHECKPOINT_OPTIONS}
    for name in _MAPPINGS:
        value = getattr(args, name)
        if isinstance(value, str) and value.startswith("{"):  # as on a command line
            try:
                value = json.loads(value)
            except ValueError as error:
                yield f"{name}: it is no JSON: {error}"
                continue
        if isinstance(value, Mapping):
            taken = options.get(name)
            if taken is not None and (unknown := sorted(map(str, value.keys() - taken))):
                yield f"{name}: nothing takes {', '.join(unknown)}; there are {', '.join(sorted(taken)) or 'none'}"
        elif isinstance(value, str) and name in _FILES:
            if not Path(value).is_file():
                yield f"{name}: there is no file {value}"
        elif value is not None and not is_dataclass(value):  # such as accelerate's AcceleratorConfig
            yield f"{name}: {value!r} is no mapping"


_CHECKPOINT_OPTIONS = inspect.signature(checkpoint).parameters.keys() - {"function", "args", "kwargs"} | {
    "preserve_rng_state"
}


def _scheduler_options(args: Any) -> set[str] | None:
    """What `lr_scheduler_kwargs` may name; None where it is not known."""
    kinds = {kind.value: kind for kind in SchedulerType}
    kind = kinds.get(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if kind is None:  # which transformers refuses by itself
        return None
    function: Any = TYPE_TO_SCHEDULER_FUNCTION[kind]
    if kind is SchedulerType.REDUCE_ON_PLATEAU:  # theirs passes all on to it
        function = ReduceLROnPlateau
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return set(parameters) - {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
