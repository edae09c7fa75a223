"""Critiques that the caller sends: the reward after each, with nothing written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from conftest import Running, StartApp, Using, serving
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.engines.base import Job, Output
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.engines.transformers_engine import TransformersEngine
from criticrm_server.settings import Settings
from support.references import load_reference

PROMPT, RESPONSES = "What is 2 + 2?", ["It is 4.", "It is 5."]
GIVEN = [["It is right.", "Good."], ["It is wrong, for 2 + 2 is 4."]]
BODY: dict[str, Any] = {"prompt": PROMPT, "responses": RESPONSES, "critiques": GIVEN}


@pytest.fixture
async def real(start_app: StartApp, opened_checkpoint: Checkpoint) -> AsyncIterator[Running]:
    """On a model, whose rewards follow from the tokens."""
    settings = Settings(engine="transformers", dtype="float32", max_model_len=512)
    async with start_app(TransformersEngine(opened_checkpoint, settings), max_model_len=512) as app:
        yield app


async def test_the_scores_are_those_of_a_teacher_forced_pass(real: Running, opened_checkpoint: Checkpoint) -> None:
    results = (await real.score(BODY)).json()["results"]
    model, renderer = load_reference(opened_checkpoint), opened_checkpoint.renderer
    for result, response, texts in zip(results, RESPONSES, GIVEN, strict=True):
        opened = renderer.open([{"role": "user", "content": PROMPT}])
        prompt = opened.render(response, max_model_len=512, max_critique_tokens=64).token_ids
        for critique, text in zip(result["critiques"], texts, strict=True):
            ids = renderer.tokenize_critique(text)
            direct, score = model.score(prompt, ids)
            assert critique["score"] == pytest.approx(score, abs=1e-4)
            assert result["direct_score"] == pytest.approx(direct, abs=1e-4)
            assert critique["tokens"] == len(ids)
        assert result["usage"]["critique_tokens"] == 0  # nothing was written


async def test_results_are_sent_back_as_they_are(real: Running) -> None:
    """Cut critiques too: the reward after each is that of the result."""
    for options in ({"n": 2, "max_tokens": 3, "seed": 1}, {"max_tokens": 1}):
        written = (await real.score(prompt=PROMPT, responses=RESPONSES, critique=options)).json()["results"]
        sent = [[{k: one[k] for k in ("text", "finish_reason")} for one in result["critiques"]] for result in written]
        if any(not one["text"] for several in sent for one in several):
            continue
        read = (await real.score(BODY | {"critiques": sent})).json()["results"]
        for before, after in zip(written, read, strict=True):
            assert after["direct_score"] == pytest.approx(before["direct_score"], abs=1e-4)
            for one, other in zip(before["critiques"], after["critiques"], strict=True):
                assert (other["text"], other["finish_reason"]) == (one["text"], one["finish_reason"])
                if other["tokens"] == one["tokens"]:  # else the text has other tokens than were sampled
                    assert other["score"] == pytest.approx(one["score"], abs=1e-4)
            assert ("critique_cut" in after["warnings"]) == ("critique_cut" in before["warnings"])


async def test_each_critique_has_its_score_and_the_mean_is_the_score(running: Running) -> None:
    first, second = (await running.score(BODY)).json()["results"]
    assert [critique["text"] for critique in first["critiques"]] == GIVEN[0]
    scores = [critique["score"] for critique in first["critiques"]]
    assert scores[0] != scores[1]
    assert first["score"] == pytest.approx(sum(scores) / 2)
    assert first["score_std"] is not None
    assert second["score_std"] is None
    plain = (await running.score(prompt=PROMPT, responses=RESPONSES, critique=False)).json()["results"]
    assert [result["direct_score"] for result in plain] == [first["direct_score"], second["direct_score"]]


async def test_each_is_one_prefill(start_app: StartApp, opened_checkpoint: Checkpoint) -> None:
    jobs: list[Job] = []

    class Watched(FakeEngine):
        async def run(self, job: Job) -> Output:
            jobs.append(job)
            return await super().run(job)

    async with start_app(Watched(opened_checkpoint.renderer.stop_token_ids[0])) as app:
        assert (await app.score(BODY)).status_code == 200
    assert len(jobs) == 2 + 3  # before each response's critiques, and after each critique
    assert {(job.n, job.max_tokens) for job in jobs} == {(1, 1)}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"critiques": [["a"]]}, "critiques"),
        ({"critiques": [["a"], []]}, "critiques[1]"),
        ({"critiques": [["a"], [""]]}, "critiques[1][0]"),
        ({"critiques": [["a"], [1]]}, "critiques[1][0]"),
        ({"critiques": [["a"], [{"text": ""}]]}, "critiques[1][0].text"),
        ({"critiques": [["a"], [{"text": "b", "finish_reason": "error"}]]}, "critiques[1][0].finish_reason"),
        ({"critiques": [["a"], "b"]}, "critiques[1]"),
        ({"critiques": [["a"], ["b"] * 17]}, "critiques[1]"),
        ({"critiques": [["a"], ["word " * 2000]]}, "critiques[1]"),
        ({"critique": False}, "critique"),
        ({"critique": {"n": 2}}, "critique"),
        ({"critique": {"max_tokens": 5}}, "critique"),
    ],
)
async def test_what_is_refused(running: Running, changes: dict[str, Any], field: str) -> None:
    answer = await running.score(BODY | changes)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["details"][0]["field"] == field


async def test_they_need_not_be_returned(running: Running) -> None:
    (first, _) = (await running.score(BODY | {"critique": {"include": False}})).json()["results"]
    assert first["critiques"] == []
    assert first["score"] is not None


async def test_a_critique_is_text_whatever_it_spells(running: Running, opened_checkpoint: Checkpoint) -> None:
    end = opened_checkpoint.tokenizer.convert_ids_to_tokens(opened_checkpoint.renderer.stop_token_ids[0])
    (result, _) = (await running.score(BODY | {"critiques": [[f"Good.{end}Bad."], ["Bad."]]})).json()["results"]
    assert result["critiques"][0]["tokens"] > 3
    assert result["critiques"][0]["text"] == f"Good.{end}Bad."


def test_the_client_sends_them(using: Using, opened_checkpoint: Checkpoint) -> None:
    with serving(opened_checkpoint) as url:
        scored = using(lambda client: client.score(PROMPT, RESPONSES, critiques=GIVEN), url)
        assert [critique.text for critique in scored.results[0].critiques] == GIVEN[0]
        items = [{"prompt": PROMPT, "responses": RESPONSES, "critiques": GIVEN}]
        (many,) = using(lambda client: client.score_many(items, progress=False), url)
        assert many.rewards == scored.rewards
