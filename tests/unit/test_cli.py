"""The command line: what it teaches, and how it refuses."""

from __future__ import annotations

import sys

import pytest

from criticrm_server import serve
from criticrm_server.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["criticrm", *arguments])
    with pytest.raises(SystemExit) as exited:
        main()
    return exited.value.code


@pytest.mark.parametrize("arguments", [("--help",), ()])
def test_the_overview_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *arguments) == (0 if arguments else 2)
    overview = capsys.readouterr().out
    for line in ("serve     Serve a Critic-RM", "verify    Score", "default   Assemble", "fit-head  Fit a reward row"):
        assert line in overview


@pytest.mark.parametrize("command", ["serve", "verify", "default", "fit-head"])
def test_help_teaches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(monkeypatch, command, "--help") == 0
    assert f"usage: criticrm {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fly",), "no such command; there are: default, fit-head, serve, verify"),
        (("serve", "--port", "70000"), "--port: Input should be less than or equal to 65535"),
        (("serve", "--host", "0.0.0.0"), "CRITICRM_API_KEYS"),
        (("serve", "--prot", "1"), "unrecognized arguments: --prot"),
        (("default", "destroy"), "--action: Input should be 'build'"),
    ],
)
def test_a_wrong_call_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_failure_is_explained_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "serve", "./no/such/folder", "--port", "0") == 1
    captured = capsys.readouterr().err
    assert "criticrm serve: ./no/such/folder is not a folder" in captured
    assert "Traceback" not in captured


def test_a_missing_vllm_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda _: None)
    assert run(monkeypatch, "serve", "--port", "0") == 1
    assert "install the extra 'serve' (GPU) or 'serve-cpu'" in capsys.readouterr().err
