"""The README's commands, as they are written there, against a live server with the embedded default."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live import Server

README = Path(__file__).parents[2] / "README.md"


pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server("default", log=tmp_path_factory.mktemp("readme") / "screen.log") as server:
        yield server


def blocks(language: str, mention: str) -> list[str]:
    """The README's code blocks of one language that talk to the service."""
    found = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in found if mention in block]


def run(server: Server, *command: str) -> str:
    """Run it with the README's address replaced by the live one."""
    words = [word.replace("http://127.0.0.1:8000", server.url) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=True).stdout


def test_curl_returns_a_critique_and_a_score_for_each_of_two_responses(server: Server) -> None:
    commands = blocks("bash", "curl")
    assert commands
    for command in commands:
        results = json.loads(run(server, "bash", "-euc", command))["results"]
        assert len(results) == 2
        for result in results:
            assert result["status"] == "ok"
            assert all(critique["text"].strip() for critique in result["critiques"])
            assert result["critiques"]
            assert math.isfinite(result["score"])
            assert math.isfinite(result["direct_score"])


def shape(value: Any) -> Any:
    """Keys and types, without the values."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


def test_the_answer_shown_has_the_shape_of_the_answer(server: Server) -> None:
    (command,), (shown,) = blocks("bash", "curl"), blocks("json", "results")
    assert shape(json.loads(shown)) == shape(json.loads(run(server, "bash", "-euc", command)))


def test_python_prints_a_score_for_each_response(server: Server) -> None:
    programs = blocks("python", "127.0.0.1:8000")
    assert programs
    for program in programs:
        lines = run(server, sys.executable, "-c", program).splitlines()
        assert lines
        for line in lines:
            numbers = re.findall(r"-?\d+\.\d+(?:e-?\d+)?", line)
            assert numbers, line
            assert all(math.isfinite(float(number)) for number in numbers)
