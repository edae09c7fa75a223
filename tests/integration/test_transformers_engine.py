"""The reference engine behind the app, for machines without vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from criticrm_model.checkpoint import Checkpoint
from criticrm_server.app import create_app
from criticrm_server.serve import start_engine
from criticrm_server.settings import Settings
from references import load_reference

pytestmark = pytest.mark.integration


@pytest.fixture
async def client(opened_checkpoint: Checkpoint) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(model=str(opened_checkpoint.folder), engine="transformers", dtype="float32")
    app = create_app(settings, opened_checkpoint, start_engine)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def test_scores_are_those_of_the_reference(client: httpx.AsyncClient, opened_checkpoint: Checkpoint) -> None:
    body = {"prompt": "Why?", "responses": ["So.", "Because of it."], "critique": {"max_tokens": 12}}
    answer = (await client.post("/score", json=body)).raise_for_status().json()
    reference = load_reference(opened_checkpoint)
    conversation = opened_checkpoint.renderer.open([{"role": "user", "content": "Why?"}])
    for response, result in zip(body["responses"], answer["results"], strict=True):
        ids = conversation.render(response, max_model_len=100_000, max_critique_tokens=12).token_ids
        [completion], _ = reference.critique([ids], max_tokens=12)
        assert result["critiques"][0]["text"] == opened_checkpoint.renderer.decode(completion.token_ids)
        assert result["score"] == pytest.approx(completion.score, abs=1e-4)
        assert result["direct_score"] == pytest.approx(completion.direct_score, abs=1e-4)


async def test_sampled_critiques_repeat_with_their_seed(client: httpx.AsyncClient) -> None:
    body = {"prompt": "Why?", "responses": ["So."], "critique": {"n": 3, "max_tokens": 12, "seed": 2**32 - 1}}
    first, second = await asyncio.gather(*(client.post("/score", json=body) for _ in range(2)))
    assert first.json()["results"] == second.json()["results"]
    assert first.json()["results"][0]["score_std"] > 0
