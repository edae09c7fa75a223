"""The benchmarks are run by hand: what they import must go on being there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROGRAMS = [
    *("client.py", "gateway.py", "imported.py", "run.py"),
    *("sampling.py", "several.py", "supplied.py", "training.py"),
]


# In one process, for what they import takes seconds.
_RUNS = """
import importlib, runpy, sys
from pathlib import Path
folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
for path in folder.glob("*.py"):
    importlib.import_module(path.stem)
for name in sys.argv[2:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_path(str(folder / name), run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, name
"""


def test_benchmarks_start_and_their_parts_import() -> None:
    command = [sys.executable, "-c", _RUNS, str(BENCHMARKS), *PROGRAMS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("examples:") == len(PROGRAMS)
