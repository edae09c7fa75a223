"""What is in `docker/`, read for the tests of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def run(tool: str, *arguments: str | Path) -> str:
    """What a tool prints; fails the test with its words if it finds fault. From this environment before the path."""
    beside = Path(sys.executable).with_name(tool)
    found = str(beside) if beside.exists() else shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([found, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{tool}:\n{done.stdout}{done.stderr}"
    return done.stdout


def overlay(name: str) -> list[dict[str, Any]]:
    """The manifests of an overlay, as kubectl builds them."""
    return list(yaml.safe_load_all(run("kubectl", "kustomize", KUBERNETES / "overlays" / name)))


def dockerfile() -> str:
    """With the lines that are continued joined, and without comments."""
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return re.sub(r"\\\n\s*", "", "\n".join(line for line in lines if not line.startswith("#")))


def image_environment() -> dict[str, str]:
    """What the images set, ARG and PATH aside."""
    stage = dockerfile().split(" AS runtime\n")[1].split("\nFROM ")[0]
    return dict(re.findall(r"([A-Z_]+)=(\S+)", "".join(re.findall(r"^ENV (.*)$", stage, re.MULTILINE))))
