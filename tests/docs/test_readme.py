"""The embedded default, built by two processes at once; then the documents' requests against a server with it.

And a walk through its playground.

The commands are run as they are written there. One file, for the build takes minutes. The tests run in this order.
"""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from criticrm_model.checkpoint import Checkpoint
from support.browser import start_browser
from support.live import CRITICRM, Server, wait_until
from support.walk import walk

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "scoring.md", ROOT / "docs" / "sdk.md"]
pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("as_users_start_it")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def server(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRITICRM_CACHE", str(cache))
        log = tmp_path_factory.mktemp("readme") / "screen.log"
        with Server("default", "--no-browser", command="quickstart", port=free_port(), log=log) as server:
            yield server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def blocks(language: str, mention: str) -> list[str]:
    """The pages' code blocks of one language that talk to the service, each once."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    found = [block for text in texts for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]
    return list(dict.fromkeys(block for block in found if mention in block))


def run(server: Server, *command: str) -> str:
    """Run it with the pages' address replaced by the live one."""
    words = [word.replace("http://127.0.0.1:8000", server.url) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=True).stdout


def shape(value: Any) -> Any:
    """Keys and types, without the values."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


def test_two_processes_build_one_default(cache: Path) -> None:
    builds = [
        subprocess.Popen(
            [CRITICRM, "default", "build", "--cache", cache],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        outputs = [build.communicate(timeout=500) for build in builds]
    finally:
        for build in builds:
            build.kill()
    assert [build.returncode for build in builds] == [0, 0]
    folders = {Path(printed.strip()) for printed, _ in outputs}
    assert len(folders) == 1
    assert sum("assembling" in screen for _, screen in outputs) == 1
    assert not list(cache.glob("*.partial"))
    folder = folders.pop()
    assert [path for path in cache.glob("default-*") if path.is_dir()] == [folder]
    assert Checkpoint.open(folder).manifest.base_model == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118  # one matrix, as the published model has


def test_quickstart_shows_a_first_answer_and_where_the_page_is(server: Server) -> None:
    wait_until(lambda: "Ctrl-C stops the service." in server.screen(), 60, server.screen)
    screen = server.screen()
    right, wrong = (float(score) for score in re.findall(r"score ([+-]\d+\.\d+), before a critique", screen))
    assert right > wrong
    assert "The answer is 78." in screen
    assert f"to look at: {server.url}/" in screen


def test_curl_returns_what_is_shown(server: Server) -> None:
    """Two results with a critique and scores, in the shape of the answer that is shown."""
    (command, _), (shown,) = blocks("bash", "curl"), blocks("json", "results")
    answer = json.loads(run(server, "bash", "-euc", command))
    assert shape(json.loads(shown)) == shape(answer)
    assert len(answer["results"]) == 2
    right, wrong = answer["results"]
    assert right["score"] > wrong["score"]
    for result in answer["results"]:
        assert result["status"] == "ok"
        assert all(critique["text"].strip() for critique in result["critiques"])
        assert result["critiques"]
        assert math.isfinite(result["score"])
        assert math.isfinite(result["direct_score"])


def test_curl_with_criteria_returns_a_reward_for_each(server: Server) -> None:
    _, command = blocks("bash", "curl")
    answer = json.loads(run(server, "bash", "-euc", command))
    for result in answer["results"]:
        first, second = result["criteria"]
        assert result["score"] == pytest.approx((first["score"] + 2 * second["score"]) / 3)
        assert "criteria_untrained" in result["warnings"]


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


async def test_a_walk_through_the_playground(server: Server) -> None:
    async with start_browser() as browser:
        await walk(browser, server.url)
