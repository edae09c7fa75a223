"""An imported scalar behind the service: scored directly unless asked otherwise, and asked otherwise a 422."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from conftest import Running, StartApp
from criticrm_client import AsyncCriticRM, InvalidRequestError
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.importing.importer import Source, import_model
from criticrm_server.engines.fake import made_up_reward
from support.scalars import make_with_head

OFFSET = -3.25
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
ANSWER = "Air scatters blue light."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("imported")
    import_model(Source(str(make_with_head(folder / "source", "v_head", bias=OFFSET))), folder / "out")
    return Checkpoint.open(folder / "out")


@pytest.fixture
async def running(start_app: StartApp, checkpoint: Checkpoint) -> AsyncIterator[Running]:
    async with start_app(checkpoint=checkpoint) as app:
        yield app


@pytest.fixture
def expected(checkpoint: Checkpoint) -> float:
    opened = checkpoint.renderer.open(QUESTION)  # type: ignore[arg-type]
    ids = opened.render(ANSWER, max_model_len=512, max_critique_tokens=1).token_ids
    return made_up_reward(ids) + OFFSET


@pytest.mark.parametrize("options", [{}, {"critique": False}, {"critique": None}])
async def test_it_is_scored_directly(running: Running, expected: float, options: dict[str, Any]) -> None:
    answer = await running.score(prompt=QUESTION, responses=[ANSWER], **options)
    (result,) = answer.json()["results"]
    assert result["score"] == result["direct_score"] == pytest.approx(expected)
    assert result["critiques"] == []
    assert result["usage"]["critique_tokens"] == 0


@pytest.mark.parametrize("critique", [True, {"n": 2}, {"include": False}])
async def test_a_critique_is_refused_with_the_reason(running: Running, critique: Any) -> None:
    answer = await running.score(prompt=QUESTION, responses=[ANSWER], critique=critique)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert "writes no critiques until it is trained" in error["message"]
    assert error["details"][0]["field"] == "critique"


async def test_drop_in_routes_work_as_they_are(running: Running, expected: float) -> None:
    messages = [*QUESTION, {"role": "assistant", "content": ANSWER}]
    body = {"messages": messages, "use_activation": False}
    for query in ("", "?critique=false", "?critique=false&include=false"):
        answer = await running.client.post(f"/classify{query}", json=body)
        assert answer.json()["data"][0]["probs"] == [pytest.approx(expected)]
    for query in ("critique=true", "n=2"):
        refused = await running.client.post(f"/classify?{query}", json=body)
        assert refused.status_code == 422
        assert "writes no critiques" in refused.json()["error"]["message"]


async def test_the_sdk_works_as_it_is(running: Running, expected: float) -> None:
    async with AsyncCriticRM("http://test", transport=httpx.ASGITransport(running.app)) as client:
        scores = await client.score(QUESTION, [ANSWER])  # type: ignore[arg-type]
        assert scores.rewards == [pytest.approx(expected)]
        with pytest.raises(InvalidRequestError, match="writes no critiques"):
            await client.score(QUESTION, [ANSWER], critique=True)  # type: ignore[arg-type]


async def test_the_model_says_where_it_came_from(running: Running, checkpoint: Checkpoint) -> None:
    manifest = (await running.client.get("/v1/model")).json()["manifest"]
    assert manifest["critique_instruction"] is None
    assert manifest["readout"]["render"] == "conversation"
    assert manifest["origin"]["name"] == checkpoint.manifest.base_model
    assert manifest["rewards"][0]["offset"] == OFFSET
