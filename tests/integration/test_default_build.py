"""The embedded default: two processes may build it at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from criticrm_model.checkpoint import Checkpoint
from live import CRITICRM

pytestmark = pytest.mark.integration


def test_two_processes_build_one_default(tmp_path: Path) -> None:
    builds = [
        subprocess.Popen(
            [CRITICRM, "default", "build", "--cache", tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        outputs = [build.communicate(timeout=300) for build in builds]
    finally:
        for build in builds:
            build.kill()
    assert [build.returncode for build in builds] == [0, 0]
    folders = {Path(printed.strip()) for printed, _ in outputs}
    assert len(folders) == 1
    assert sum("assembling" in screen for _, screen in outputs) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folders.pop().name, "default.lock"])
    [folder] = tmp_path.glob("default-*")
    assert Checkpoint.open(folder).manifest.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
