"""The benchmarks are run by hand: what they import must go on being there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["client.py", "gateway.py", "run.py", "sampling.py", "training.py"])
def test_a_benchmark_starts(name: str) -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / name, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout


def test_its_parts_import() -> None:
    modules = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
    program = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import {', '.join(modules)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
