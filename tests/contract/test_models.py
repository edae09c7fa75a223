"""Which model is served, and requests that say which one they are for."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import MAX_MODEL_LEN, Running, StartApp
from criticrm_client import AsyncCriticRM, CheckpointChangedError, Retries
from criticrm_server.engines.base import Job, Output
from support.dropin import bodies
from support.tiny import make_checkpoint

TEXT: dict[str, Any] = {"prompt": "Why?", "responses": ["So.", "Because."]}
NDJSON = {"accept": "application/x-ndjson"}
PATHS = ("/score", "/v1/score", "/v1/render")
each_path = pytest.mark.parametrize("path", PATHS)


async def no_engine(_: Job) -> Output:
    raise AssertionError("the engine was asked")


def error_of(answer: httpx.Response) -> tuple[int, str, dict[str, Any]]:
    error = answer.json()["error"]
    (detail,) = error["details"]
    return answer.status_code, error["code"], detail


async def test_v1_score_is_score(running: Running) -> None:
    for headers in ({}, NDJSON):
        old = await running.client.post("/score", json=TEXT, headers=headers)
        new = await running.client.post("/v1/score", json=TEXT, headers=headers)
        assert new.status_code == 200
        assert new.headers["content-type"] == old.headers["content-type"]
        ids = (old.headers["x-request-id"], new.headers["x-request-id"])
        assert sorted(new.text.replace(ids[1], ids[0]).splitlines()) == sorted(old.text.splitlines())


async def test_the_list_of_models(start_app: StartApp) -> None:
    async with start_app(served_model_name="critic", api_keys="one") as running:
        assert (await running.client.get("/v1/models")).status_code == 401
        answer = await running.client.get("/v1/models", headers={"Authorization": "Bearer one"})
        assert answer.json()["object"] == "list"
        (model,) = answer.json()["data"]
        assert 0 <= time.time() - model.pop("created") < 3600
        assert model == {
            "id": "critic",
            "object": "model",
            "owned_by": "critic-rm",
            "max_model_len": MAX_MODEL_LEN,
            "model_version": running.service.model_version,
        }


@each_path
async def test_a_request_for_what_is_served(running: Running, path: str) -> None:
    model = (await running.client.get("/v1/models")).json()["data"][0]
    body = TEXT | {"model": model["id"], "model_version": model["model_version"]}
    answer = await running.client.post(path, json=body)
    assert answer.status_code == 200
    assert answer.json()["model_version"] == model["model_version"]
    assert (await running.client.post(path, json=TEXT | {"model": None, "model_version": None})).status_code == 200


@each_path
@pytest.mark.parametrize("headers", [{}, NDJSON])
async def test_another_model_is_404_before_any_work(running: Running, path: str, headers: dict[str, str]) -> None:
    running.service.engine.run = no_engine
    body = {"items": [TEXT], "model": "gpt-4"}
    status, code, detail = error_of(await running.client.post(path, json=body, headers=headers))
    assert (status, code) == (404, "model_not_found")
    assert (detail["field"], detail["expected"], detail["actual"]) == ("model", running.service.model_name, "gpt-4")
    assert "gpt-4" in detail["message"]


@each_path
@pytest.mark.parametrize("headers", [{}, NDJSON])
async def test_another_version_is_409_before_any_work(running: Running, path: str, headers: dict[str, str]) -> None:
    running.service.engine.run = no_engine
    body = TEXT | {"model_version": "0123456789ab"}
    status, code, detail = error_of(await running.client.post(path, json=body, headers=headers))
    assert (status, code) == (409, "model_version_mismatch")
    assert (detail["field"], detail["expected"]) == ("model_version", running.service.model_version)
    assert running.service.admission.admitted == 0


@pytest.mark.parametrize(("field", "limit"), [("model", 4096), ("model_version", 256)])
async def test_names_have_a_limit(running: Running, field: str, limit: int) -> None:
    status, _, detail = error_of(await running.score(TEXT | {field: "x" * (limit + 1)}))
    assert (status, detail["field"], detail["limit"]) == (422, field, limit)


async def test_the_precondition_holds_after_a_wait_for_other_weights(start_app: StartApp, tmp_path: Path) -> None:
    """The request was taken while its checkpoint was served; another was when its turn came."""
    other = make_checkpoint(tmp_path / "other", critique_instruction="Is it true?")
    async with start_app(admin_key="admin", engine=None) as running:
        served = running.service.model_version
        admission = running.service.admission
        changing = asyncio.Event()
        reload = running.service.engine.reload

        async def slowly(checkpoint: Any) -> None:
            changing.set()
            await asyncio.sleep(0.2)
            await reload(checkpoint)

        running.service.engine.reload = slowly
        headers = {"Authorization": "Bearer admin"}
        reloaded = asyncio.create_task(
            running.client.post("/admin/reload", json={"checkpoint": str(other)}, headers=headers)
        )
        await changing.wait()
        waiting = await running.score(TEXT | {"model_version": served})
        assert (await reloaded).status_code == 200
        assert error_of(waiting)[:2] == (409, "model_version_mismatch")
        assert admission.admitted == 0


@pytest.mark.parametrize("path", bodies())
async def test_frameworks_may_name_any_model(running: Running, path: str) -> None:
    body = bodies()[path]
    if isinstance(body, dict):
        body = body | {"model": "policy"}
    assert (await running.client.post(path, json=body)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"text_1": "a", "text_2": ["b", "c"]},
        {"model": "m", "queries": ["a"], "documents": ["b"]},
        {"queries": "a", "items": ["b"]},
        {"data_1": "a", "data_2": "b", "truncate_prompt_tokens": -1},
    ],
)
@each_path
async def test_a_body_of_vllms_score_api_is_told_what_to_send(running: Running, path: str, body: Any) -> None:
    status, code, detail = error_of(await running.client.post(path, json=body))
    assert (status, code) == (422, "invalid_request")
    assert detail["field"] == next(name for name in body if name != "model")
    assert "vLLM's score API" in detail["message"]
    example = detail["message"].partition("send ")[2]
    answer = await running.client.post(path, content=example, headers={"content-type": "application/json"})
    assert answer.status_code == 200


async def test_the_sdk_sends_the_version_that_it_expects(running: Running) -> None:
    transport = httpx.ASGITransport(running.app, raise_app_exceptions=False)
    bodies: list[str] = []

    async def note(request: httpx.Request) -> None:
        bodies.append(request.content.decode())

    def http() -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=transport, event_hooks={"request": [note]})

    served = running.service.model_version
    async with AsyncCriticRM("http://test", http_client=http) as client:
        for _ in range(2):  # the first answer tells the version
            assert (await client.score("Why?", ["So."])).model_version == served
    assert [f'"model_version":"{served}"' in body for body in bodies] == [False, True]


async def test_the_sdk_raises_before_any_work_and_does_not_try_again(running: Running) -> None:
    running.service.engine.run = no_engine
    transport = httpx.ASGITransport(running.app, raise_app_exceptions=False)
    patient = Retries(attempts=9, first_wait_s=60)
    async with AsyncCriticRM("http://test", transport=transport, model_version="old", retries=patient) as client:
        with pytest.raises(CheckpointChangedError, match=r"checkpoint .*, and this client's is old") as changed:
            await client.score("Why?", ["So."])
        assert changed.value.status_code == 409
        assert changed.value.headers["x-request-id"] == changed.value.request_id
        with pytest.raises(CheckpointChangedError):  # of the job, not of an item
            await client.score_many([("Why?", ["So."])] * 20)
