"""vLLM's V2 model runner, which GPUs run, in Triton's interpreter: its rewards are those of transformers.

A short form; `python tests/parity/v2_runs.py CHECKPOINT` has every mode and more steps (docs/self-check.md).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def test_every_step_of_the_v2_runner_has_the_reward_of_transformers(tiny_checkpoint: Path) -> None:
    script = Path(__file__).with_name("v2_runs.py")
    command = [sys.executable, script, tiny_checkpoint, "--modes", "chunked samples", "--steps", "240"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["runner"] == "V2"
    assert found["steps"] >= 240
    assert 0 < found["largest"] <= 1e-4
