"""Values of a `CriticConfig` with which no run could go on, named before one begins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from transformers.integrations.integration_utils import get_available_reporting_integrations

_LEAST_COUNTS = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_model_len": 1,
    "max_critique_tokens": 1,
    "calibration_pairs": 1,
    "fresh_critique_pairs": 0,
    "seed": 0,
}
_POSITIVE = ("num_train_epochs", "neftune_noise_alpha")
_NOT_NEGATIVE = ("learning_rate", "head_learning_rate", "max_grad_norm")
_BELOW_ONE = ("adam_beta1", "adam_beta2")
_OPTIONAL = ("neftune_noise_alpha", "head_learning_rate", "metric_for_best_model")  # None is a value of these
_CHOICES = {
    "train_sampling_strategy": ("group_by_length", "random", "sequential", "batch_rebalance"),
    "overlong": ("drop", "truncate", "error"),
    "dtype": ("float32", "bfloat16"),
    "metric_for_best_model": ("accuracy", "direct_accuracy", "loss"),
    "log_level": ("debug", "info", "warning", "error", "critical", "detail", "passive"),
}


def limit_faults(args: Any) -> Iterator[str]:
    """Each field that is outside of its limits, with what it may be."""
    values = {
        name: getattr(args, name) for name in (*_LEAST_COUNTS, *_POSITIVE, *_NOT_NEGATIVE, *_BELOW_ONE, *_CHOICES)
    }
    given = {name: v for name, v in values.items() if v is not None or name not in _OPTIONAL}
    for name, value in given.items():
        if name in _CHOICES:
            if str(value).removeprefix("eval_") not in _CHOICES[name]:
                yield f"{name}: {value!r} is none of {', '.join(_CHOICES[name])}"
        elif name in _LEAST_COUNTS:
            if isinstance(value, bool) or not isinstance(value, int) or value < _LEAST_COUNTS[name]:
                yield f"{name}: {value!r} is not a whole number from {_LEAST_COUNTS[name]}"
        elif (number := _number(value)) is None:
            yield f"{name}: {value!r} is not a finite number"
        elif name in _POSITIVE and number <= 0 and not (name == "num_train_epochs" and args.max_steps > 0):
            yield f"{name}: {value} is not above 0"
        elif number < 0 or (name in _BELOW_ONE and number >= 1):
            yield f"{name}: {value} is {'negative' if number < 0 else 'not below 1'}"
    for name in ("learning_rate", "head_learning_rate") if args.head is None else ():
        if getattr(args, name) == 0:
            yield f"{name}: 0 would leave the reward at zero; give a `head` to start from, or a rate"
    reports = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    known = get_available_reporting_integrations()
    for name in reports:
        if name not in ("none", "all", *known):
            yield f"report_to: {name!r} is not installed, or unknown; there are {', '.join(sorted(known)) or 'none'}"


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
