"""`critique: {"when": "close"}` and "auto": who gets a critique, what it costs, and that rankings hold."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Running, StartApp, Using, serving
from criticrm_client import CritiqueOptions
from criticrm_model import Completion, Selection, Settle
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.engines.base import Job, Output
from criticrm_server.engines.fake import FakeEngine
from support.tiny import card, make_checkpoint

PROMPT = "Why is the sky blue?"
RESPONSES = ["Air scatters blue light.", "It reflects the sea.", "Because.", "Light."]
CLOSE: dict[str, Any] = {"when": "close", "margin": 0.5, "max_tokens": 4}


class Scripted(FakeEngine):
    """Direct scores by the length of the response; after a critique always 5.

    The tiny checkpoint's calibration: direct 0.5 +- 2.0, score -1.0 +- 4.0.
    """

    def __init__(self, stop: int, direct: list[float]) -> None:
        super().__init__(stop)
        self.jobs: list[Job] = []
        self._direct = direct
        self._seen: dict[tuple[int, ...], float] = {}

    async def run(self, job: Job) -> Output:
        self.jobs.append(job)
        direct = self._seen.setdefault(tuple(job.token_ids), self._direct[len(self._seen) % len(self._direct)])
        after = direct if job.max_tokens == 1 else 5.0
        ids = [7] * job.max_tokens
        return Output([Completion(ids, "length", direct, after, ((direct, after),)) for _ in range(job.n)])


@pytest.fixture
async def scripted(start_app: StartApp, opened_checkpoint: Checkpoint) -> AsyncIterator[Running]:
    engine = Scripted(
        opened_checkpoint.renderer.stop_token_ids[0], [4.5, 4.0, -3.5, 0.5]
    )  # calibrated: 0.625, 0.5, -1.375, -0.375
    async with start_app(engine) as app:
        yield app


async def results(app: Running, **fields: Any) -> list[dict[str, Any]]:
    answer = await app.score({"prompt": PROMPT, "responses": RESPONSES, **fields})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


async def test_critiques_are_written_where_the_best_is_in_question(scripted: Running) -> None:
    found = await results(scripted, critique=CLOSE)
    assert [one["critiqued"] for one in found] == [True, True, False, False]
    assert [one["score"] for one in found] == [5.0, 5.0, -3.5, 0.5]
    assert [one["direct_score"] for one in found] == [4.5, 4.0, -3.5, 0.5]
    assert [len(one["critiques"]) for one in found] == [1, 1, 0, 0]
    assert [one["usage"]["critique_tokens"] for one in found] == [4, 4, 0, 0]
    # One scale: 5 / 2 + 1 after a critique, direct / 4 - 1 / 2 before any.
    assert [one["calibrated_score"] for one in found] == [3.5, 3.5, -1.375, -0.375]
    assert {one["compare_by"] for one in found} == {"calibrated_score"}
    assert all(one["warnings"] == ([] if not one["critiqued"] else ["critique_cut"]) for one in found)
    engine = scripted.engine
    assert isinstance(engine, Scripted)
    assert sorted((job.n, job.max_tokens) for job in engine.jobs) == [(1, 1)] * 4 + [(1, 4)] * 2


@pytest.mark.parametrize(
    ("options", "critiqued"),
    [
        ({"rank": "all"}, [True, True, False, False]),
        ({"rank": "all", "margin": 2.0}, [True, True, True, True]),
        ({"margin": 0.12}, [False, False, False, False]),
        ({"margin": 0.125}, [True, True, False, False]),
        ({"margin": 9.0, "max_total_tokens": 11}, [True, True, False, False]),
        ({"margin": 9.0, "max_total_tokens": 12}, [True, True, False, True]),
        ({"margin": 9.0, "max_total_tokens": 24, "n": 2}, [True, True, False, True]),
        ({"margin": 9.0, "max_total_tokens": 3}, [False, False, False, False]),
    ],
)
async def test_margins_ranks_and_budgets(scripted: Running, options: dict[str, Any], critiqued: list[bool]) -> None:
    assert [one["critiqued"] for one in await results(scripted, critique=CLOSE | options)] == critiqued


async def test_full_critiques_and_none_say_so(scripted: Running) -> None:
    assert all(one["critiqued"] for one in await results(scripted, critique={"max_tokens": 4}))
    plain = await results(scripted, critique=False)
    assert not any(one["critiqued"] for one in plain)
    assert {one["compare_by"] for one in plain} == {"score"}
    assert [one["calibrated_score"] for one in plain] == [0.625, 0.5, -1.375, -0.375]
    answer = await scripted.score(prompt=PROMPT, responses=RESPONSES, critique=CLOSE, normalize=True)
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["field"] == "normalize"


async def test_each_prompt_is_on_its_own(scripted: Running) -> None:
    items = [{"prompt": PROMPT, "responses": RESPONSES[:2]}, {"prompt": PROMPT, "responses": RESPONSES[2:]}]
    answer = await scripted.score(items=items, critique=CLOSE)
    assert [one["critiqued"] for one in answer.json()["results"]] == [True, True, False, False]
    alone = await scripted.score(prompt=PROMPT, responses=[RESPONSES[3]], critique=CLOSE)
    assert alone.json()["results"][0]["critiqued"]  # at the reference set's mean


async def test_streams_have_the_same_results(scripted: Running) -> None:
    body = {"prompt": PROMPT, "responses": RESPONSES, "critique": CLOSE}
    whole = await results(scripted, critique=CLOSE)
    lines = await scripted.client.post("/score", json=body, headers={"accept": "application/x-ndjson"})
    assert lines.text.count('"critiqued":true') == sum(one["critiqued"] for one in whole) == 2
    events = await scripted.client.post("/score", json=body, headers={"accept": "text/event-stream"})
    assert events.text.count("event: result") == 4


async def test_places_are_returned(opened_checkpoint: Checkpoint, start_app: StartApp) -> None:
    engine = Scripted(opened_checkpoint.renderer.stop_token_ids[0], [4.5, 4.0, -3.5, 0.5])
    async with start_app(engine, max_sequences=4, max_critiques=1) as app:
        for _ in range(3):
            assert len(await results(app, critique=CLOSE)) == 4
        text = (await app.client.get("/metrics")).text
    for flag in ("true", "false"):
        assert f'criticrm_selected_responses_total{{critiqued="{flag}"}} 6.0' in text


@pytest.mark.parametrize(
    ("critique", "field"),
    [
        ({"when": "close"}, "critique.margin"),
        ({"when": "close", "margin": 0}, "critique.margin"),
        ({"when": "close", "margin": 1, "max_total_tokens": 0}, "critique.max_total_tokens"),
        ({"when": "close", "margin": 1, "rank": "worst"}, "critique.rank"),
        ({"when": "near"}, "critique.when"),
        ({"margin": 1}, "critique"),
        ({"rank": "all"}, "critique"),
        ("auto", "critique"),
        ("full", "critique"),
    ],
)
async def test_what_is_refused(running: Running, critique: Any, field: str) -> None:
    answer = await running.score(prompt=PROMPT, responses=RESPONSES, critique=critique)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["details"][0]["field"] == field


@pytest.mark.parametrize("moments", [False, True])
async def test_a_checkpoint_without_a_scale_refuses(start_app: StartApp, tmp_path: Path, moments: bool) -> None:
    """Means and deviations alone don't tell how reliable a direct score is."""
    without = card().calibration.model_copy(update={"scales": None}) if moments else None  # type: ignore[union-attr]
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "plain", calibration=without))
    async with start_app(checkpoint=checkpoint) as app:
        answer = await app.score(prompt=PROMPT, responses=RESPONSES, critique=CLOSE)
        assert answer.json()["error"]["code"] == "not_calibrated"
        assert "criticrm evaluate --calibrate" in answer.json()["error"]["message"]
        plain = await app.score(prompt=PROMPT, responses=RESPONSES, critique=False)
        assert (plain.json()["results"][0]["calibrated_score"] is not None) == moments


async def test_auto_is_the_checkpoints_own_setting(start_app: StartApp, tmp_path: Path) -> None:
    own = Selection(margin=0.25, rank="all", chosen_on="made up")
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "own", selection=own))
    engine = Scripted(checkpoint.renderer.stop_token_ids[0], [4.5, 4.0, -3.5, 0.5])
    async with start_app(engine, checkpoint=checkpoint) as app:
        assert [one["critiqued"] for one in await results(app, critique="auto")] == [True, True, False, False]
        assert all((job.n, job.settle) == (1, None) for job in engine.jobs)
        body = {"query": ["Why?So."], "prompts": ["Why?"]}
        assert (await app.client.post("/get_reward?critique=auto", json=body)).status_code == 200
        assert (await app.client.post("/get_reward?critique=auto&n=2", json=body)).status_code == 422


async def test_auto_can_be_several_ended_critiques(start_app: StartApp, tmp_path: Path) -> None:
    own = Selection(margin=0.25, n=3, settled=0.5, tokens=6, chosen_on="made up")
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "own", selection=own))
    engine = Scripted(checkpoint.renderer.stop_token_ids[0], [4.5, 4.0, -3.5, 0.5])
    async with start_app(engine, checkpoint=checkpoint) as app:
        await results(app, critique="auto")
    assert [(job.n, job.settle) for job in engine.jobs if job.max_tokens > 1] == [(3, Settle(0.5, 6))] * 2


class Misleading(FakeEngine):
    """Direct scores by the response; after a critique every score is -3."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.renderer.stop_token_ids[0])
        self._decode = checkpoint.renderer.decode

    async def run(self, job: Job) -> Output:
        text = self._decode(job.token_ids)
        known = zip(RESPONSES, [4.5, 4.0, -2.0], strict=False)
        direct = next((score for response, score in known if response in text), 0.0)
        after = direct if job.max_tokens == 1 else -3.0
        ids = [7] * job.max_tokens
        return Output([Completion(ids, "length", direct, after) for _ in range(job.n)])


def test_what_compares_responses_is_on_one_scale(using: Using, opened_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Raw, the third would be the best (-2 without a critique, -3 after one); on one scale it is the worst."""
    engine = Misleading(opened_checkpoint)
    rows = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows[0].write_text(json.dumps({"prompt": PROMPT, "responses": RESPONSES[:3]}) + "\n")
    with serving(opened_checkpoint, engine, skip_self_check=True) as url:
        close = CritiqueOptions(when="close", margin=0.5, max_tokens=4)
        best = using(lambda client: client.best_of(PROMPT, RESPONSES[:3], critique=close), url)
        assert [result.score for result in best.results] == [-3.0, -3.0, -2.0]
        assert [result.reward for result in best.results] == [-0.5, -0.5, -1.0]
        assert best.index == 0
        compared = using(lambda client: client.compare(PROMPT, RESPONSES[2], RESPONSES[0], critique=close), url)
        assert compared.preferred == 1
        summary = using(lambda client: client.score_file(*rows, critique=close, progress=False), url)
    row = json.loads(rows[1].read_text())
    assert row["best"] == 0
    assert row["score"] == [-0.5, -0.5, -1.0]
    assert summary.mean_score == -0.5


async def test_drop_in_routes_return_what_compares(start_app: StartApp, tmp_path: Path) -> None:
    own = Selection(margin=0.5, chosen_on="made up")
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "own", selection=own))
    engine = Misleading(checkpoint)
    async with start_app(engine, checkpoint=checkpoint) as app:
        alone = {"query": [PROMPT + RESPONSES[0]], "prompts": [PROMPT]}
        answer = (await app.client.post("/get_reward?critique=auto", json=alone)).json()
        assert answer["rewards"] == [0.625]  # far from the mean: no critique, and 4.5 / 4 - 1 / 2
        both = {"query": [PROMPT + RESPONSES[0], PROMPT + RESPONSES[1]], "prompts": [PROMPT] * 2}
        answer = (await app.client.post("/get_reward?critique=auto", json=both)).json()
    assert answer["rewards"] == [-0.5, -0.5]  # close to each other: critiques, and -3 / 2 + 1


async def test_none_of_many_to_a_prompt_is_left_alone(start_app: StartApp, tmp_path: Path) -> None:
    """It would be compared with 0, and the others with each other."""
    checkpoint = Checkpoint.open(
        make_checkpoint(tmp_path / "own", selection=Selection(margin=0.5, chosen_on="made up"))
    )
    async with start_app(Misleading(checkpoint), checkpoint=checkpoint, max_responses=4) as app:
        body = {"query": [PROMPT + RESPONSES[0], PROMPT + RESPONSES[1]] * 2 + [PROMPT + RESPONSES[0]]}
        answer = (await app.client.post("/get_reward?critique=auto", json=body | {"prompts": [PROMPT] * 5})).json()
    assert answer["rewards"] == [-0.5] * 5


async def test_routes_that_compare_two_responses_compare_them(start_app: StartApp, tmp_path: Path) -> None:
    """Each alone would be far from the mean, and get no critique."""
    checkpoint = Checkpoint.open(
        make_checkpoint(tmp_path / "own", selection=Selection(margin=0.2, chosen_on="made up"))
    )
    async with start_app(Misleading(checkpoint), checkpoint=checkpoint) as app:
        pair = {"response_1": RESPONSES[0], "response_2": RESPONSES[1]}
        body = {"input": PROMPT, "metadata": pair}
        answer = await app.client.post("/v1/responses?critique=auto", json=body)
        assert answer.status_code == 200, answer.text
        verdict = json.loads(answer.json()["output"][0]["content"][0]["text"])
    assert verdict == {"score_1": -0.5, "score_2": -0.5, "ranking": 3.5}


def test_the_client_asks_for_them(using: Using, opened_checkpoint: Checkpoint) -> None:
    with serving(opened_checkpoint) as url:
        options = CritiqueOptions(when="close", margin=100.0, max_tokens=4)
        scored = using(lambda client: client.score(PROMPT, RESPONSES, critique=options), url)
        assert all(result.critiqued for result in scored.results)
        supplied = using(
            lambda client: client.score(
                PROMPT, RESPONSES, critique=CritiqueOptions(include=False), critiques=[["x"] for _ in RESPONSES]
            ),
            url,
        )
        assert [result.critiques for result in supplied.results] == [[] for _ in RESPONSES]
