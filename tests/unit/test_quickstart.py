"""`criticrm quickstart`: from a checked machine to a first answer and the page."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PROGRAM = (
    "from criticrm_server.command_line import parser_of\n"
    "from criticrm_server.commands.quickstart import Quickstart\n"
    "import sys\n"
    "source = parser_of('quickstart', Quickstart)[1]\n"
    "sys.exit(Quickstart(_cli_settings_source=source(args=sys.argv[1:])).run())"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def quickstart(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"CRITICRM_LOG_LEVEL": "warning", "PYTHONUNBUFFERED": "1"} | variables,
    )


@pytest.mark.parametrize("keys", ["", "one"])
def test_it_ends_with_an_answer_and_the_page(tiny_checkpoint: Path, tmp_path: Path, keys: str) -> None:
    visited = tmp_path / "visited"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {visited}\n')
    browser.chmod(0o755)
    port = free_port()
    arguments = [str(tiny_checkpoint), "--engine", "fake", "--port", str(port)]
    with quickstart(*arguments, BROWSER=f"{browser} %s", CRITICRM_API_KEYS=keys) as started:
        assert started.stdout is not None
        lines = []
        for line in started.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        started.send_signal(signal.SIGTERM)
        assert started.wait(60) == 0
    screen = "".join(lines)
    assert "ok       checkpoint" in screen
    assert "The answer is 78.   score " in screen
    assert f"opened: http://127.0.0.1:{port}/" in screen
    until = time.monotonic() + 30
    while not visited.is_file() and time.monotonic() < until:
        time.sleep(0.05)
    assert visited.read_text().strip() == f"http://127.0.0.1:{port}/"


def test_a_problem_ends_it_before_anything_is_started(tmp_path: Path) -> None:
    with quickstart(str(tmp_path / "none"), "--engine", "fake", "--port", str(free_port()), "--no-browser") as started:
        screen, _ = started.communicate(timeout=60)
    assert started.returncode == 1
    assert "PROBLEM  checkpoint" in screen
    assert "Ctrl-C" not in screen


def test_it_needs_a_port() -> None:
    with quickstart("--port", "0") as started:
        screen, _ = started.communicate(timeout=60)
    assert started.returncode != 0
    assert "needs a port" in screen
