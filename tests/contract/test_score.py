"""`POST /score`: each option, on the fake engine."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, stdev

import pytest

from conftest import MAX_MODEL_LEN, Running, StartApp
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.contents import ContentTokenizer
from criticrm_server import rendering
from criticrm_server.engines.base import Job, Output
from criticrm_server.schemas import ScoreOne
from support.tiny import make_checkpoint

TEXT = {"prompt": "Why is the sky blue?", "responses": ["Air scatters light.", "The sea."]}
RESULT_KEYS = {
    "id",
    "index",
    "status",
    "score",
    "direct_score",
    "score_std",
    "rewards",
    "calibrated_score",
    "criteria",
    "critiqued",
    "compare_by",
    "critiques",
    "warnings",
    "error",
    "usage",
}


async def test_one_prompt(running: Running) -> None:
    response = await running.score(prompt="Why is the sky blue?", responses=["Air scatters light.", "The sea."])
    body = response.json()
    assert response.status_code == 200
    assert list(body) == ["id", "model", "model_version", "usage", "results"]
    assert body["id"] == response.headers["x-request-id"]
    assert body["model"] == "default"
    assert body["model_version"] == running.service.checkpoint.manifest.version
    assert [result["index"] for result in body["results"]] == [0, 1]
    for result in body["results"]:
        assert set(result) == RESULT_KEYS
        assert result["status"] == "ok"
        assert result["id"] is None
        assert result["error"] is None
        assert result["score_std"] is None
        (critique,) = result["critiques"]
        assert critique["text"]
        assert critique["score"] == result["score"] != result["direct_score"]
        assert critique["finish_reason"] == "stop"
        assert result["usage"]["critique_tokens"] == critique["tokens"] == 24  # the checkpoint's own limit
    for kind in ("prompt_tokens", "cached_tokens", "critique_tokens"):
        assert body["usage"][kind] == sum(result["usage"][kind] for result in body["results"])


async def test_text_is_one_user_turn(running: Running) -> None:
    as_text = (await running.score(prompt="Q", responses=["A"])).json()["results"]
    as_turn = (await running.score(prompt=[{"role": "user", "content": "Q"}], responses=["A"])).json()["results"]
    assert as_text == as_turn


async def test_many_items_keep_their_order_and_ids(running: Running) -> None:
    items = [{"id": f"row-{i}", "prompt": f"question {i}", "responses": ["a", "b", "c"][: 1 + i % 3]} for i in range(7)]
    results = (await running.score(items=items)).json()["results"]
    expected = [(item["id"], k) for item in items for k in range(len(item["responses"]))]
    assert [(result["id"], result["index"]) for result in results] == expected
    alone = (await running.score(prompt="question 5", responses=["a", "b", "c"])).json()["results"]
    assert [r["score"] for r in results if r["id"] == "row-5"] == [r["score"] for r in alone]


async def test_the_score_is_the_mean_over_the_critiques(running: Running) -> None:
    (result,) = (await running.score(prompt="Q", responses=["A"], critique={"n": 3, "max_tokens": 5})).json()["results"]
    scores = [critique["score"] for critique in result["critiques"]]
    assert len(set(scores)) == 3
    assert result["score"] == pytest.approx(fmean(scores))
    assert result["score_std"] == pytest.approx(stdev(scores))
    assert result["usage"]["critique_tokens"] == 15


async def test_without_a_critique_the_score_is_the_direct_one(running: Running) -> None:
    (result,) = (await running.score(prompt="Q", responses=["A"], critique=False)).json()["results"]
    assert result["score"] == result["direct_score"]
    assert result["critiques"] == []
    assert result["usage"]["critique_tokens"] == 0


async def test_critiques_can_be_left_out(running: Running) -> None:
    (result,) = (await running.score(prompt="Q", responses=["A"], critique={"include": False})).json()["results"]
    assert result["critiques"] == []
    assert result["score"] != result["direct_score"]
    assert result["usage"]["critique_tokens"] == 24


@pytest.mark.parametrize("response", ["", "  \n"])
async def test_an_empty_response_is_scored_and_flagged(running: Running, response: str) -> None:
    empty, other = (await running.score(prompt="Q", responses=[response, "A"])).json()["results"]
    assert empty["status"] == "ok"
    assert isinstance(empty["score"], float)
    assert empty["warnings"] == ["empty_response"]
    assert other["warnings"] == []


async def test_truncation_is_said(running: Running) -> None:
    response = await running.score(
        prompt="word " * 2000, responses=["A"], critique={"max_tokens": 10}, on_overflow="truncate"
    )
    (result,) = response.json()["results"]
    assert result["status"] == "truncated"
    assert result["usage"]["prompt_tokens"] == MAX_MODEL_LEN - 10
    assert isinstance(result["score"], float)


async def test_one_too_long_among_others_is_an_error_of_its_own(running: Running) -> None:
    response = await running.score(prompt="Q", responses=["short", "word " * 2000, "also short"])
    good, bad, also_good = response.json()["results"]
    assert response.status_code == 200
    assert [good["status"], bad["status"], also_good["status"]] == ["ok", "error", "ok"]
    assert set(bad) == RESULT_KEYS
    assert bad["score"] is bad["direct_score"] is bad["score_std"] is None
    assert bad["error"]["code"] == "prompt_too_long"
    (detail,) = bad["error"]["details"]
    assert detail["limit"] == MAX_MODEL_LEN - 24
    assert detail["prompt_tokens"] > detail["limit"]


async def test_every_critique_must_fit_beside_its_prompt(running: Running) -> None:
    """The same prompt fits beside a short critique, and not beside a longer one."""
    request = {"prompt": "word " * 60, "responses": ["A"]}
    length = (await running.score(request | {"critique": False})).json()["usage"]["prompt_tokens"]
    room = MAX_MODEL_LEN - length
    assert (await running.score(request | {"critique": {"max_tokens": room}})).status_code == 200
    refused = await running.score(request | {"critique": {"max_tokens": room + 1}})
    assert refused.json()["error"]["details"][0]["limit"] == length - 1


async def test_a_large_item_is_scored_as_a_small_one(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the event loop, and on it."""
    request = {"items": [{"id": "a", "prompt": "Q", "responses": ["A", "word " * 2000, ""]}, {**TEXT, "id": "b"}]}
    on_it = (await running.score(request)).json()["results"]
    monkeypatch.setattr(rendering, "_INLINE", 0)
    beside_it = (await running.score(request)).json()["results"]
    for results in (on_it, beside_it):
        results[1]["error"].pop("request_id")
    assert beside_it == on_it


@pytest.mark.parametrize(("words", "beside"), [(10, False), (900, True), (20_000, True)])
@pytest.mark.parametrize("where", ["prompt", "responses"])
async def test_a_long_text_is_tokenised_beside_the_event_loop(
    running: Running, monkeypatch: pytest.MonkeyPatch, words: int, beside: bool, where: str
) -> None:
    threads: list[threading.Thread] = []
    tokenize = ContentTokenizer.tokenize_all

    def watched(tokenizer: ContentTokenizer, texts: list[str]) -> list[list[int]]:
        if any("word" in text for text in texts):
            threads.append(threading.current_thread())
        return tokenize(tokenizer, texts)

    monkeypatch.setattr(ContentTokenizer, "tokenize_all", watched)
    text = "word " * words
    body = {"prompt": text, "responses": ["A"]} if where == "prompt" else {"prompt": "Q", "responses": [text]}
    assert (await running.score(body | {"on_overflow": "truncate"})).status_code == 200
    assert {thread is not threading.main_thread() for thread in threads} == {beside}


async def test_the_event_loop_does_not_wait_for_texts_of_other_threads(running: Running) -> None:
    """As it did where tokenizers shared out its own threads among all callers."""
    tokenizer = running.service.checkpoint.renderer._contents
    with ThreadPoolExecutor(8) as threads:
        long = [threads.submit(tokenizer.tokenize_all, ["word " * 200_000] * 2) for _ in range(8)]
        while not any(job.running() for job in long):
            time.sleep(0.001)
        time.sleep(0.05)
        tokenizer.tokenize_all(["word", "word"])
        assert not any(job.done() for job in long)


async def test_many_short_texts_let_others_have_their_turn(running: Running) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    plan = ScoreOne(prompt="Q", responses=["word " * 100] * 200)
    await running.service.scorer.plan(plan, "id")
    counting.cancel()
    assert turns > 20


async def test_texts_that_can_not_fit_are_not_tokenised_whole(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    characters = 0
    tokenize = ContentTokenizer.tokenize_all

    def counted(tokenizer: ContentTokenizer, texts: list[str]) -> list[list[int]]:
        nonlocal characters
        characters += sum(map(len, texts))
        return tokenize(tokenizer, texts)

    monkeypatch.setattr(ContentTokenizer, "tokenize_all", counted)
    long = "word " * 200_000
    refused = await running.score(prompt=long, responses=["A"] * 200)
    assert refused.json()["error"]["code"] == "prompt_too_long"
    assert characters < 50_000
    mixed = await running.score(prompt="Q", responses=[long, "A"], critique=False)
    assert [result["status"] for result in mixed.json()["results"]] == ["error", "ok"]
    assert characters < 100_000


async def test_normalised_scores_by_hand(running: Running) -> None:
    """The card in tiny.py: direct 0.5 +- 2, after a critique -1 +- 4."""
    request = {"prompt": "Q", "responses": ["A"], "critique": {"n": 2, "max_tokens": 4}}
    (raw,) = (await running.score(request)).json()["results"]
    (normal,) = (await running.score(request | {"normalize": True})).json()["results"]
    assert normal["direct_score"] == pytest.approx((raw["direct_score"] - 0.5) / 2)
    assert normal["score"] == pytest.approx((raw["score"] + 1) / 4)
    assert normal["score_std"] == pytest.approx(raw["score_std"] / 4)
    assert normal["critiques"][1]["score"] == pytest.approx((raw["critiques"][1]["score"] + 1) / 4)


async def test_normalised_without_a_critique_uses_the_direct_moments(running: Running) -> None:
    request = {"prompt": "Q", "responses": ["A"], "critique": False}
    (raw,) = (await running.score(request)).json()["results"]
    (normal,) = (await running.score(request | {"normalize": True})).json()["results"]
    assert normal["score"] == normal["direct_score"] == pytest.approx((raw["score"] - 0.5) / 2)


async def test_normalising_needs_a_calibration(start_app: StartApp, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "uncalibrated", calibration=None)
    async with start_app(checkpoint=Checkpoint.open(folder)) as uncalibrated:
        response = await uncalibrated.score(prompt="Q", responses=["A"], normalize=True)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "not_calibrated"
    assert response.json()["error"]["details"][0]["field"] == "normalize"


async def test_ndjson_streams_results_and_ends_with_the_totals(running: Running) -> None:
    request = {"items": [{"id": str(i), "prompt": f"q{i}", "responses": ["a", "b"]} for i in range(5)]}
    whole = (await running.score(request)).json()
    response = await running.client.post("/score", json=request, headers={"accept": "application/x-ndjson"})
    *results, end = [json.loads(line) for line in response.text.splitlines()]
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert sorted(results, key=lambda r: (r["id"], r["index"])) == whole["results"]
    assert end["count"] == 10
    assert end["error"] is None
    assert end["usage"] == whole["usage"]
    assert end["id"] == response.headers["x-request-id"]


async def test_ndjson_results_come_as_they_finish(start_app: StartApp) -> None:
    """A long job first in the request does not hold back a short one."""
    async with start_app() as app:
        run = app.engine.run

        async def slow_first(job: Job) -> Output:
            app.engine.delay_s = 0.2 if len(job.token_ids) > 100 else 0.0
            return await run(job)

        app.service.engine.run = slow_first
        response = await app.client.post(
            "/score",
            json={"prompt": "Q", "responses": ["word " * 60, "short"]},
            headers={"accept": "application/x-ndjson"},
        )
        finished = [json.loads(line)["index"] for line in response.text.splitlines()[:-1]]
    assert finished == [1, 0]


async def test_the_callers_request_id_comes_back(running: Running) -> None:
    headers = {"x-request-id": "trace-17"}
    response = await running.client.post("/score", json={"prompt": "Q", "responses": ["A"]}, headers=headers)
    assert response.headers["x-request-id"] == response.json()["id"] == "trace-17"
    odd = await running.client.get("/health/live", headers={"x-request-id": "a b\x7f"})
    assert odd.headers["x-request-id"] != "a b\x7f"


async def test_seed_and_temperature_reach_the_engine(running: Running) -> None:
    jobs: list[Job] = []
    run = running.engine.run

    async def watched(job: Job) -> Output:
        jobs.append(job)
        return await run(job)

    running.service.engine.run = watched
    for critique in (True, {"n": 4}, {"temperature": 0.3, "seed": 7, "max_tokens": 9}, False):
        await running.score(prompt="Q", responses=["A"], critique=critique)
    assert [(j.n, j.max_tokens, j.temperature, j.seed) for j in jobs] == [
        (1, 24, 0.0, None),
        (4, 24, 0.7, None),
        (1, 9, 0.3, 7),
        (1, 1, 0.0, None),
    ]
