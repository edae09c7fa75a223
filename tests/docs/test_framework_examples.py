"""The pages' examples that need no framework run, against a server without a model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.null_server import NullServer, score_of

DOCS = Path(__file__).parents[2] / "docs"


def examples() -> dict[str, str]:
    found = {}
    for page in sorted([*DOCS.glob("frameworks/*.md"), *DOCS.glob("guides/*.md")]):
        for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            if "print(" in block:
                found[page.stem] = block
    return found


def test_each_reward_function_has_one() -> None:
    assert set(examples()) == {"areal", "easyr1", "ms-swift", "rlhf-with-trl", "slime", "trl", "verl"}


@pytest.mark.parametrize("page", examples())
def test_an_example_prints_the_reward(page: str) -> None:
    with NullServer() as server:
        variables = {**os.environ, "CRITICRM_URL": server.url}
        for name in ("CRITICRM_KEY", "CRITICRM_REWARD_OPTIONS"):
            variables.pop(name, None)
        command = [sys.executable, "-W", "error", "-c", examples()[page]]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert str(score_of("56")) in done.stdout
