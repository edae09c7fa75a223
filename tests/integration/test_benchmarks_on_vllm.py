"""The benchmarks that the documents name run through, on a tiny model and real vLLM: no figure is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "gateway.py": ["--samples", "4", "--rounds", "1", "--pairs", "4", "--critique-tokens", "4"],
    "supplied.py": ["--rounds", "1", "--critique-tokens", "4"],
    "sampling.py": ["--quick", "--only", "reward"],
}

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", list(SMALL))
def test_it_runs_through(name: str, tiny_checkpoint: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / name, "--model", tiny_checkpoint, *SMALL[name]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])
