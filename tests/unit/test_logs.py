"""The log: a line of JSON for machines, of text for people, and the request's id in it."""

from __future__ import annotations

import json
import logging
from typing import Literal

import pytest

from conftest import Running
from criticrm_server.logs import configure_logging

pytestmark = pytest.mark.usefixtures("logging_as_before")


async def test_a_request_is_one_line_of_json(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    response = await running.client.post("/score", json={"prompt": 1}, headers={"x-request-id": "trace-1"})
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "criticrm.access" in line]
    assert response.status_code == 422
    assert line["message"] == "POST /score 422"
    assert (line["level"], line["logger"], line["request_id"]) == ("INFO", "criticrm.access", "trace-1")
    assert (line["status"], line["code"]) == (422, "invalid_request")
    assert line["seconds"] >= 0
    assert line["time"]


async def test_what_callers_send_is_not_logged(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", "json")
    await running.score(prompt="a secret prompt", responses=["a secret response"])
    await running.score(prompt="a secret prompt", responses="a secret response")
    logged = capsys.readouterr().err
    assert "POST /score 200" in logged
    assert "POST /score 422" in logged
    assert "secret" not in logged


async def test_probes_are_quiet_until_they_fail(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text")
    await running.client.get("/health/ready")
    await running.client.get("/metrics")
    running.service.admission.drain()
    await running.client.get("/health/ready")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "GET" in line]
    assert "GET /health/ready 503 code=draining request_id=" in line


async def test_a_line_of_text_finds_a_request_again(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text")
    await running.client.post("/score", json={"prompt": 1}, headers={"x-request-id": "trace-1"})
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "POST" in line]
    assert line.endswith("POST /score 422 code=invalid_request request_id=trace-1")


HOSTILE = ["%0a12:00:00 CRITICAL all is lost", "%0d%1b[31m", "%c2%9b31m", "%e2%80%a8", "%e2%80%ae", "%00", "%08"]


@pytest.mark.parametrize("style", ["text", "json"])
async def test_a_path_can_not_forge_a_line(
    running: Running, capsys: pytest.CaptureFixture[str], style: Literal["text", "json"]
) -> None:
    configure_logging("info", style)
    for path in HOSTILE:
        await running.client.get(f"/x{path}")
    logged = capsys.readouterr().err
    assert logged.count("GET /x") == len(HOSTILE)
    assert len([line for line in logged.splitlines() if line]) == len(HOSTILE)
    assert not set(logged) & set("\x00\x08\r\x1b\x9b\u2028\u202e")


def test_further_lines_are_indented_and_printable(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text")
    try:
        raise ValueError("first\n12:00:00 CRITICAL second\x1b[31m")
    except ValueError:
        logging.getLogger("criticrm_test").exception("it said %s", "a\nb")
    first, *others = capsys.readouterr().err.rstrip("\n").split("\n")
    assert first.endswith("it said a")
    assert all(line.startswith("    ") for line in others)
    assert "\x1b" not in "".join(others)


@pytest.mark.parametrize(("terminal", "style"), [(True, "text"), (False, "json")])
def test_auto_is_text_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, style: Literal["text", "json"]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    configure_logging("info", "auto")
    logging.getLogger("criticrm_test").info("hello")
    line = capsys.readouterr().err.strip()
    assert line.startswith("{") == (style == "json")
    assert "hello" in line
