"""What vLLM reads when it is imported."""

from __future__ import annotations

import logging
import os
import warnings


def prepare_environment() -> None:
    """Set what the user has not: to be called before vLLM's first import."""
    # vLLM's warnings are a line a weight for a float32 checkpoint in bfloat16.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    warnings.filterwarnings("ignore", "`torch.distributed.reduce_op` is deprecated", FutureWarning)
