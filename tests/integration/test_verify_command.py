"""`criticrm verify` on real vLLM, in a process of its own as a user runs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.live import CRITICRM, IN_ONE_PROCESS

pytestmark = pytest.mark.integration


def test_vllm_agrees_with_transformers_in_float32(tiny_checkpoint: Path) -> None:
    done = subprocess.run(
        [
            *(CRITICRM, "verify", tiny_checkpoint, "--limit", "8", "--kv-cache-gib", "1", "--json"),
            *("--vllm-args", json.dumps(IN_ONE_PROCESS)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["n"], last["dtype"]) == (8, "float32")
    # Zero would mean that something was compared with itself.
    assert 0 < last["max_abs_diff"] <= 1e-4
    assert abs(last["mean_signed_diff"]) <= 1e-5
