"""Each `criticrm serve` line of the documents, with its variables, serves: a tiny model on an engine without vLLM."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from conftest import listening
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.app import create_app
from criticrm_server.commands.serve import Serve
from criticrm_server.engines.base import Engine
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.engines.remote import RemoteEngine
from support.fake_vllm import FakeVLLM, with_made_up_references

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def serve_lines() -> list[str]:
    blocks = [b for d in DOCUMENTS for b in re.findall(r"```bash\n(.*?)```", d.read_text("utf-8"), re.DOTALL)]
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return sorted({line for line in lines if re.match(r"([A-Z_]+=\S+ )*criticrm serve ", line)})


@contextmanager
def served(line: str, checkpoint: Checkpoint, patch: pytest.MonkeyPatch, keys: Path) -> Iterator[tuple[str, Serve]]:
    """Where it is served, on loopback, by vLLM servers of the test where the line names some; and its settings."""
    variables, _, arguments = line.partition("criticrm serve ")
    for variable in variables.split():
        name, _, value = variable.partition("=")
        patch.setenv(name, str(keys) if name.endswith("_FILE") else value)
    with ExitStack() as stack:
        for named in re.findall(r"http://\w+:\d+", arguments):
            arguments = arguments.replace(named, stack.enter_context(FakeVLLM(checkpoint)).url)
        settings = Serve(_cli_parse_args=shlex.split(arguments, comments=True))
        engine: Engine = FakeEngine(checkpoint.renderer.stop_token_ids[0], max_model_len=512)
        if settings.engine == "remote":
            engine = RemoteEngine(checkpoint, settings)
        yield stack.enter_context(listening(create_app(settings, checkpoint, engine))), settings


@pytest.mark.parametrize("line", serve_lines())
def test_it_serves(line: str, opened_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("secret\n")
    with served(line, with_made_up_references(opened_checkpoint), monkeypatch, tmp_path / "keys") as (url, settings):
        keyed = bool(settings.api_keys or settings.api_keys_file)
        body = {"prompt": "Why?", "responses": ["So.", "No."]}
        answer = httpx.post(f"{url}/score", json=body, headers={"Authorization": "Bearer secret"} if keyed else {})
        assert [result["status"] for result in answer.json()["results"]] == ["ok", "ok"]
        assert (httpx.post(f"{url}/score", json=body).status_code == 401) == keyed
        asleep = httpx.post(f"{url}/admin/sleep", headers={"Authorization": "Bearer ..."})
        assert (asleep.status_code == 200) == settings.sleep_mode


def test_there_are_lines_with_variables_and_lines_with_servers() -> None:
    lines = serve_lines()
    assert any(line.startswith("CRITICRM_") for line in lines)
    assert any("--remote-urls" in line for line in lines)
