"""The reference engine behind the app, for machines without vLLM."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.manifest import MANIFEST_NAME
from criticrm_server.app import create_app
from criticrm_server.engines.factory import create_engine
from criticrm_server.settings import Settings
from support.live import CRITICRM
from support.references import assert_results_of_transformers

pytestmark = pytest.mark.integration


@pytest.fixture
async def client(opened_checkpoint: Checkpoint) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(model=str(opened_checkpoint.folder), engine="transformers", dtype="float32")
    app = create_app(settings, opened_checkpoint, create_engine(opened_checkpoint, settings))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def test_scores_are_those_of_the_reference(client: httpx.AsyncClient, opened_checkpoint: Checkpoint) -> None:
    body = {"prompt": "Why?", "responses": ["So.", "Because of it."], "critique": {"max_tokens": 12}}
    answer = (await client.post("/score", json=body)).raise_for_status().json()
    assert_results_of_transformers(answer["results"], opened_checkpoint, "Why?", body["responses"], max_tokens=12)


async def test_sampled_critiques_repeat_with_their_seed(client: httpx.AsyncClient) -> None:
    body = {"prompt": "Why?", "responses": ["So."], "critique": {"n": 3, "max_tokens": 12, "seed": 2**32 - 1}}
    first, second = await asyncio.gather(*(client.post("/score", json=body) for _ in range(2)))
    assert first.json()["results"] == second.json()["results"]
    assert first.json()["results"][0]["score_std"] > 0


def test_a_server_that_fails_its_self_check_says_so_and_does_not_start(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "changed"))
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["references"]["direct_scores"][0] += 1
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    command = [CRITICRM, "serve", folder, "--engine", "transformers", "--port", "0", "--log-format", "text"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "references: these are not the rewards of this checkpoint" in done.stderr
    assert "--skip-self-check starts it nevertheless" in done.stderr
    assert "Traceback" not in done.stderr
