"""Cores for vLLM's CPU build: all of a small machine's, unless somebody said otherwise."""

from __future__ import annotations

import os

import pytest

from criticrm_model.cores import compute_on_all_cores

RESERVED = "VLLM_CPU_NUM_OF_RESERVED_CPU"


@pytest.mark.parametrize(("cores", "before", "after"), [(2, None, "0"), (4, None, "0"), (5, None, None), (2, "1", "1")])
def test_reserved_cores(monkeypatch: pytest.MonkeyPatch, cores: int, before: str | None, after: str | None) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(os, "environ", {} if before is None else {RESERVED: before})
    compute_on_all_cores()
    assert os.environ.get(RESERVED) == after
