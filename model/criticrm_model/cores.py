"""How vLLM's CPU build uses the cores of a small machine."""

from __future__ import annotations

import os

_FEW = 4  # with more, a core less is little, and the scheduler then disturbs nobody


def compute_on_all_cores() -> None:
    """Where this process may use four cores or fewer, let vLLM compute on all of them; before its engine starts.

    It leaves one to its scheduler, which has nothing to do while the others compute: on two cores, that is half of the
    machine. What `VLLM_CPU_NUM_OF_RESERVED_CPU` says already stays.
    """
    if len(os.sched_getaffinity(0)) <= _FEW:
        os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
