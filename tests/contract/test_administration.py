"""Other weights in place, sleep and waking: nothing is lost, and nothing is scored by a mixture."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from conftest import Running, StartApp
from criticrm_model.checkpoint import Checkpoint, assemble
from criticrm_model.manifest import MANIFEST_NAME
from criticrm_server.app import create_app
from criticrm_server.engines.factory import create_engine
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.settings import Settings
from support.references import assert_results_of_transformers
from support.tiny import card, make_checkpoint, make_model, make_tokenizer, reward_vector

KEY = {"Authorization": "Bearer admin"}
BODY: dict[str, Any] = {"prompt": "Why?", "responses": ["So.", "Because."], "critique": {"max_tokens": 6}}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture, asked in other words: another version."""
    return make_checkpoint(tmp_path_factory.mktemp("other"), critique_instruction="Is it true?")


def negative(folder: Path) -> Path:
    """The same model with the opposite reward."""
    tokenizer = make_tokenizer()
    assemble(make_model(len(tokenizer)), tokenizer, -reward_vector(), card(), folder)
    return folder


async def ask(running: Running, action: str, **body: Any) -> httpx.Response:
    return await running.client.post(f"/admin/{action}", headers=KEY, **({"json": body} if body else {}))


def answers_of(response: httpx.Response) -> tuple[str, list[float]]:
    return response.json()["model_version"], [result["score"] for result in response.json()["results"]]


@pytest.mark.parametrize("action", ["reload", "sleep", "wake"])
async def test_the_administration_has_a_key_of_its_own(start_app: StartApp, action: str) -> None:
    async with start_app(api_keys="caller") as running:
        for headers in ({}, {"Authorization": "Bearer caller"}):
            answer = await running.client.post(f"/admin/{action}", headers=headers)
            assert answer.status_code == 401
            assert "CRITICRM_ADMIN_KEY" in answer.json()["error"]["message"]
    async with start_app(api_keys="caller", admin_key="admin") as running:
        answer = await running.client.post(f"/admin/{action}", headers={"Authorization": "Bearer caller"})
        assert answer.status_code == 401
        assert (await running.client.post("/score", json=BODY, headers=KEY)).status_code == 401


async def test_a_reload_under_load_loses_nothing_and_mixes_nothing(
    start_app: StartApp, opened_checkpoint: Checkpoint, other: Path
) -> None:
    engine = FakeEngine(opened_checkpoint.renderer.stop_token_ids[0], delay_s=0.01)
    bodies = [BODY | {"prompt": f"Why {i}?"} for i in range(4)]
    found: list[list[httpx.Response]] = [[] for _ in bodies]
    changed = asyncio.Event()
    async with start_app(engine, admin_key="admin", max_sequences=16, greedy_results_mib=1) as running:

        async def call(number: int) -> None:
            while not changed.is_set():
                found[number % 4].append(await running.score(bodies[number % 4]))

        old = [answers_of(await running.score(body)) for body in bodies]
        callers = [asyncio.create_task(call(number)) for number in range(24)]
        await asyncio.sleep(0.1)
        answer = await ask(running, "reload", checkpoint=str(other))
        assert answer.status_code == 200, answer.text
        await asyncio.sleep(0.1)
        changed.set()
        await asyncio.gather(*callers)
        new = [answers_of(await running.score(body)) for body in bodies]
        assert {version for version, _ in new} == {answer.json()["model_version"]}
        assert answer.json()["model_version"] == Checkpoint.open(other).manifest.version
        for number, answers in enumerate(found):
            assert {one.status_code for one in answers} == {200}
            seen = [answers_of(one) for one in answers]
            assert all(one in (old[number], new[number]) for one in seen)
            assert old[number] in seen
            assert new[number] in seen
        assert (await running.client.get("/v1/model")).json()["model_version"] == new[0][0]


async def test_requests_wait_for_a_reload_longer_than_for_room(
    start_app: StartApp, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_app(admin_key="admin", queue_timeout_s=0.05) as running:

        async def slowly(_: Checkpoint) -> None:
            await asyncio.sleep(0.3)

        monkeypatch.setattr(running.service.engine, "reload", slowly)
        changing = asyncio.create_task(ask(running, "reload", checkpoint=str(other)))
        while not running.service.admission._paused:
            await asyncio.sleep(0.01)
        answer = await running.score(BODY)
        assert answer.status_code == 200
        assert answer.json()["model_version"] == (await changing).json()["model_version"]


async def test_two_changes_at_once_and_one_that_takes_too_long_are_told(
    start_app: StartApp, opened_checkpoint: Checkpoint, other: Path
) -> None:
    engine = FakeEngine(opened_checkpoint.renderer.stop_token_ids[0], delay_s=0.6)
    async with start_app(engine, admin_key="admin", deadline_s=1) as running:
        working = asyncio.create_task(running.score(BODY))
        await asyncio.sleep(0.1)
        first = asyncio.create_task(ask(running, "reload", checkpoint=str(other)))
        await asyncio.sleep(0.2)
        second = await ask(running, "sleep")
        assert (second.status_code, second.json()["error"]["code"]) == (503, "busy")
        assert (await first).status_code == 200
        assert (await working).status_code == 200


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (lambda _: "no such folder", 422, "checkpoint: no such folder is not a folder"),
        (lambda tmp: str(make_checkpoint(tmp, tied=False)), 409, "its config differs in tie_word_embeddings"),
        (lambda tmp: str(make_checkpoint(tmp, "llama3")), 409, "its config differs in vocab_size"),
    ],
)
async def test_what_can_not_take_its_place_is_refused(
    start_app: StartApp, tmp_path: Path, make: Callable[[Path], str], status: int, words: str
) -> None:
    async with start_app(admin_key="admin") as running:
        before = answers_of(await running.score(BODY))
        answer = await ask(running, "reload", checkpoint=make(tmp_path))
        assert answer.status_code == status
        assert words in answer.json()["error"]["message"]
        assert answers_of(await running.score(BODY)) == before


async def test_who_sleeps_says_so_until_it_is_woken(start_app: StartApp, opened_checkpoint: Checkpoint) -> None:
    engine = FakeEngine(opened_checkpoint.renderer.stop_token_ids[0], delay_s=0.2)
    async with start_app(engine, admin_key="admin", max_sequences=16) as running:
        working = [asyncio.create_task(running.score(BODY)) for _ in range(12)]  # some of them wait
        await asyncio.sleep(0.05)
        assert (await ask(running, "sleep")).json()["sleeping"] is True
        statuses = [answer.status_code for answer in await asyncio.gather(*working)]
        assert statuses.count(200) >= 8
        assert set(statuses) <= {200, 503}
        for answer in (await running.score(BODY), await running.client.get("/health/ready")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "sleeping")
        assert (await ask(running, "reload", checkpoint=str(opened_checkpoint.folder))).status_code == 503
        assert (await ask(running, "wake")).json()["sleeping"] is False
        assert (await running.score(BODY)).status_code == 200
        assert (await running.client.get("/health/ready")).status_code == 200


async def test_real_weights_are_exchanged_and_bad_ones_put_back(
    opened_checkpoint: Checkpoint, other: Path, tmp_path: Path
) -> None:
    settings = Settings(engine="transformers", dtype="float32", admin_key=SecretStr("admin"))
    app = create_app(settings, opened_checkpoint, create_engine(opened_checkpoint, settings))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        running = Running(client, app.state.service, app)
        answer = await ask(running, "reload", checkpoint=str(other))
        assert answer.status_code == 200, answer.text
        assert {check["name"] for check in answer.json()["self_check"]} >= {"references", "decode"}
        results = (await running.score(BODY)).json()["results"]
        checkpoint = Checkpoint.open(other)
        assert_results_of_transformers(results, checkpoint, "Why?", BODY["responses"], max_tokens=6)

        with pytest.MonkeyPatch.context() as patch:  # as vLLM does on a CPU, where the head is tied

            async def does_nothing(_: Checkpoint) -> None: ...

            patch.setattr(running.service.engine, "reload", does_nothing)
            negated = negative(tmp_path / "negated")
            answer = await ask(running, "reload", checkpoint=str(negated))
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "weights_refused")

        broken = Path(shutil.copytree(opened_checkpoint.folder, tmp_path / "broken"))
        manifest = json.loads((broken / MANIFEST_NAME).read_text())
        manifest["references"]["direct_scores"][0] += 1
        (broken / MANIFEST_NAME).write_text(json.dumps(manifest))
        answer = await ask(running, "reload", checkpoint=str(broken))
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "weights_refused")
        assert "references: these are not the rewards" in answer.json()["error"]["message"]
        again = await running.score(BODY)
        assert again.json()["model_version"] == checkpoint.manifest.version
        assert [one["score"] for one in again.json()["results"]] == [one["score"] for one in results]
        answer = await ask(running, "sleep")
        assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_supported")
