"""The command line: what it teaches, and how it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path

import pytest

from criticrm_model import default
from criticrm_server import cli
from criticrm_server.cli import main
from criticrm_server.command_groups import GROUPS
from criticrm_server.engines import factory

pytestmark = pytest.mark.usefixtures("logging_as_before")

COMMANDS = sorted(point.name for point in entry_points(group="criticrm.commands"))


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
    for name in COMMANDS:
        assert f"\n  {name} " in overview
    for group, (example, names) in GROUPS.items():
        assert f"\n{group}:  {example}\n" in overview
        assert set(names) <= set(COMMANDS)
    assert set(COMMANDS) == {name for _, names in GROUPS.values() for name in names}  # else among other packages'
    assert "exit codes: 0 done" in overview


@pytest.mark.parametrize("example", [example for example, _ in GROUPS.values()])
def test_an_example_is_a_right_call(example: str) -> None:
    _, name, *arguments = example.split()
    (point,) = entry_points(group="criticrm.commands", name=name)
    point.load()(_cli_parse_args=arguments)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert run(monkeypatch, "completion", shell) == 0
    script = capsys.readouterr().out
    for words in (*COMMANDS, "--max-sequences", "--critique-tokens", "sample"):
        assert words in script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
        program = script + "\nCOMP_WORDS=(criticrm serve --max-seq) COMP_CWORD=2\n_shtab_criticrm\necho ${COMPREPLY[@]}"
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
        assert done.stdout.split() == ["--max-sequences"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(monkeypatch, command, "--help") == 0
    assert f"usage: criticrm {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fly",), f"no such command; there are: {', '.join(COMMANDS)}"),
        (("scor",), "no such command (did you mean score?)"),
        (("critiques", "sample", "x", "--out", "y", "--tsk", "z"), "--tsk z (did you mean --task?)"),
        (("serve", "--port", "70000"), "--port: Input should be less than or equal to 65535"),
        (("serve", "--host", "0.0.0.0"), "CRITICRM_API_KEYS"),
        (("serve", "--prot", "1"), "unrecognized arguments: --prot (did you mean --port?)"),
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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max-model-len", "100000"), "max_model_len 100000 exceeds the model's limit of 2048 tokens"),
        (("--max-model-len", "8"), "leave no room for a prompt in max_model_len 8: lower critique_tokens"),
    ],
)
def test_lengths_that_can_not_work_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_checkpoint: Path,
    flags: tuple[str, str],
    words: str,
) -> None:
    assert run(monkeypatch, "serve", str(tiny_checkpoint), "--engine", "fake", "--port", "0", *flags) == 1
    assert words in capsys.readouterr().err


def test_a_folder_that_can_not_be_made_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert run(monkeypatch, "default", "build", "--cache", str(tmp_path / "file")) == 1
    assert f"criticrm default: {tmp_path / 'file'}" in capsys.readouterr().err


def test_a_missing_vllm_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(factory, "find_spec", lambda _: None)
    assert run(monkeypatch, "serve", "--port", "0") == 1
    assert "install the extra 'serve' (GPU) or 'serve-cpu'" in capsys.readouterr().err


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == version("critic-rm")


def test_a_variable_that_can_not_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CRITICRM_API_KEYS", '["one"')
    assert run(monkeypatch, "serve") == 2
    assert "CRITICRM_API_KEYS: neither keys with commas between nor a JSON list" in capsys.readouterr().err


def test_a_command_whose_extra_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = EntryPoint("fly", "no_such_package.cli:Fly", "criticrm.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [absent] if group == "criticrm.commands" else [])
    assert run(monkeypatch, "fly") == 1
    captured = capsys.readouterr().err
    assert "No module named 'no_such_package'; this command needs an extra that is not installed: pip" in captured
    assert run(monkeypatch, "--help") == 0
    assert "fly  (not installed: pip install 'critic-rm[serve]' (GPU), [serve-cpu] or [train])" in (
        capsys.readouterr().out
    )


_SERVER_ONLY = ("fastapi", "starlette", "uvicorn", "prometheus_client")


def run_without(packages: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`criticrm` in a process of its own, where these packages are not installed."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({packages}))\n"  # None: the import raises ModuleNotFoundError
        f"sys.argv = {['criticrm', *arguments]}\n"
        "from criticrm_server.cli import main; main()"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_the_train_extra_alone_runs_its_commands() -> None:
    done = run_without(_SERVER_ONLY, "fit-head", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: criticrm fit-head" in done.stdout


_ANY = "pip install 'critic-rm[serve]' (GPU), [serve-cpu] or [train]\n"
_SERVE = "pip install 'critic-rm[serve]' (GPU) or [serve-cpu]\n"
_TRAIN = "pip install 'critic-rm[train]'\n"


@pytest.mark.parametrize(
    ("packages", "command", "remedy"),
    [
        (_SERVER_ONLY, "serve", _SERVE),
        (("pydantic_settings", *_SERVER_ONLY), "serve", _SERVE),
        (("pydantic_settings", *_SERVER_ONLY), "verify", _SERVE),
        (("pydantic_settings", *_SERVER_ONLY), "default", _ANY),
        (("pydantic_settings", *_SERVER_ONLY), "fit-head", _TRAIN),
        (("pydantic_settings", *_SERVER_ONLY), "train", _TRAIN),
    ],
)
def test_a_missing_extra_is_named(packages: tuple[str, ...], command: str, remedy: str) -> None:
    done = run_without(packages, command, "--help")
    assert done.returncode == 1
    assert done.stderr.startswith(f"criticrm {command}: ")
    assert done.stderr.endswith(f"needs an extra that is not installed: {remedy}")
    assert done.stderr.count("\n") == 1


def test_what_a_command_imports_when_it_runs_is_an_extra_too(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("{}")
    done = run_without(("torch",), "fit-head", str(data), "--out", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.endswith(_TRAIN)


def test_the_overview_needs_no_extra() -> None:
    done = run_without(("pydantic_settings", *_SERVER_ONLY), "--help")
    assert done.returncode == 0
    assert re.search(r"fit-head +\(not installed: pip install 'critic-rm\[train\]'\)", done.stdout)


def test_default_build_prints_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(default, "build_default", lambda cache: cache / "default-1")
    monkeypatch.setattr(default, "build_base", lambda cache: cache / "base-1")
    for action, folder in (("build", "default-1"), ("base", "base-1")):
        assert run(monkeypatch, "default", action, "--cache", str(tmp_path)) == 0
        assert capsys.readouterr().out == f"{tmp_path}/{folder}\n"


def test_default_build_and_serve_read_the_same_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(default, "build_default", lambda cache: cache)
    monkeypatch.setenv("CRITICRM_CACHE", str(tmp_path))
    assert run(monkeypatch, "default", "build") == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"
    monkeypatch.setenv("CRITICRM_CACHE", "")  # as if it were not set, as for `serve`
    assert run(monkeypatch, "default", "build") == 0
    assert capsys.readouterr().out == "None\n"


def test_an_interrupted_command_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(default, "build_default", interrupted)
    assert run(monkeypatch, "default", "build") == 130
