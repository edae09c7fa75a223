"""The programs in examples/: they start, and what they call is still there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# In one process, for what they import takes seconds.
_RUNS = """
import runpy, sys
from pathlib import Path
for path in map(Path, sys.argv[1:]):
    sys.path.insert(0, str(path.parent))
    sys.argv = [path.name, "--help"]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, path
"""


def test_examples_start() -> None:
    programs = [path for path in sorted(EXAMPLES.glob("*/*.py")) if "__main__" in path.read_text(encoding="utf-8")]
    done = subprocess.run(
        [sys.executable, "-c", _RUNS, *programs], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(programs) >= 6


def test_the_critiques_of_the_gsm8k_control(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "gsm8k"))
    from experiment import oracle  # type: ignore[import-not-found]

    from criticrm_training.data.pairs import PreferencePair

    prompt = ({"role": "user", "content": "3 * 9?"},)
    pair = PreferencePair("1", prompt, "The answer is 27.", "The answer is 34.", "all", "q", reference="#### 27")
    right, wrong = oracle([pair])
    assert (right.verdict, wrong.verdict) == (True, False)
    assert "Mine: 27. Reply: 34." in wrong.text
