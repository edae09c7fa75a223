"""Criteria and a reference in a request: what the critic reads, a reward for each criterion, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conftest import Running, StartApp, Using, serving
from criticrm_client import Columns, CriticRM, CritiqueOptions
from criticrm_client.rewards import core, environment, trl
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.importing.importer import Source, import_model
from criticrm_model.instruction import InstructionSlots
from criticrm_server.engines.base import Job, Output
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.engines.transformers_engine import TransformersEngine
from criticrm_server.settings import Settings
from support.references import load_reference
from support.scalars import make_with_head
from support.tiny import INSTRUCTION, make_checkpoint

PROMPT, RESPONSES = "What is 2 + 2?", ["It is 4.", "It is 5."]
RUBRIC, ANSWER = "Is the sum right?", "2 + 2 = 4"
BODY: dict[str, Any] = {"prompt": PROMPT, "responses": RESPONSES}
LIST = [RUBRIC, {"text": "Is it brief?", "weight": 3.0}]


@pytest.fixture
async def real(start_app: StartApp, opened_checkpoint: Checkpoint) -> AsyncIterator[Running]:
    """On a model, whose rewards follow from the tokens."""
    settings = Settings(engine="transformers", dtype="float32", max_model_len=512)
    async with start_app(TransformersEngine(opened_checkpoint, settings), max_model_len=512) as app:
        yield app


async def results(running: Running, **fields: Any) -> list[dict[str, Any]]:
    answer = await running.score(BODY | fields)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


async def test_the_critic_reads_them_behind_its_instruction(real: Running, opened_checkpoint: Checkpoint) -> None:
    """The same as an instruction that says it all, by transformers."""
    slots, renderer = InstructionSlots(), opened_checkpoint.renderer
    text = slots.fill(INSTRUCTION, RUBRIC, ANSWER)
    assert text.startswith(INSTRUCTION)
    assert RUBRIC in text
    assert ANSWER in text
    model = load_reference(opened_checkpoint)
    found = await results(real, criteria=RUBRIC, reference=ANSWER, critiques=[["Good."], ["Bad."]])
    for result, response, critique in zip(found, RESPONSES, ("Good.", "Bad."), strict=True):
        opened = renderer.with_instruction(text).open([{"role": "user", "content": PROMPT}])
        prompt = opened.render(response, max_model_len=512, max_critique_tokens=64).token_ids
        direct, score = model.score(prompt, renderer.tokenize_critique(critique))
        assert result["direct_score"] == pytest.approx(direct, abs=1e-4)
        assert result["score"] == pytest.approx(score, abs=1e-4)


async def test_each_of_several_criteria_has_its_critique_and_the_score_is_their_weighted_mean(real: Running) -> None:
    several = await results(real, criteria=LIST, reference=ANSWER, critique={"max_tokens": 6})
    alone = [
        await results(real, criteria=text, reference=ANSWER, critique={"max_tokens": 6})
        for text in (RUBRIC, "Is it brief?")
    ]
    for k, result in enumerate(several):
        assert [one["criterion"] for one in result["criteria"]] == [RUBRIC, "Is it brief?"]
        assert [one["weight"] for one in result["criteria"]] == [1.0, 3.0]
        for one, by_itself in zip(result["criteria"], alone, strict=True):
            assert one["score"] == pytest.approx(by_itself[k]["score"], abs=1e-5)
            assert one["direct_score"] == pytest.approx(by_itself[k]["direct_score"], abs=1e-5)
            assert by_itself[k]["criteria"] is None
        for name in ("score", "direct_score"):
            first, second = (one[name] for one in result["criteria"])
            assert result[name] == pytest.approx((first + 3 * second) / 4)
        assert [critique["criterion"] for critique in result["critiques"]] == [0, 1]
        assert [critique["text"] for critique in result["critiques"]] == [
            by_itself[k]["critiques"][0]["text"] for by_itself in alone
        ]
        assert result["score_std"] is None


async def test_samples_by_criterion(running: Running) -> None:
    (result, _) = await results(running, criteria=LIST, critique={"n": 2, "max_tokens": 6, "seed": 1})
    assert [critique["criterion"] for critique in result["critiques"]] == [0, 0, 1, 1]
    first, second = (one["score_std"] for one in result["criteria"])
    assert result["score_std"] == pytest.approx(((first**2 + 9 * second**2) ** 0.5) / 4)
    usage = result["usage"]
    assert usage["critique_tokens"] == sum(critique["tokens"] for critique in result["critiques"])


async def test_they_change_the_reward_and_nothing_else_does(running: Running) -> None:
    plain = await results(running)
    assert await results(running, criteria=None, reference=None) == plain
    assert (await results(running, criteria=RUBRIC))[0]["direct_score"] != plain[0]["direct_score"]
    assert (await results(running, reference=ANSWER))[0]["direct_score"] != plain[0]["direct_score"]
    one = await results(running, criteria=[RUBRIC])
    assert one[0]["score"] == (await results(running, criteria=RUBRIC))[0]["score"]
    assert one[0]["criteria"][0]["score"] == one[0]["score"]
    normalized = await results(running, criteria=LIST, normalize=True)
    assert normalized[0]["score"] == pytest.approx(
        (normalized[0]["criteria"][0]["score"] + 3 * normalized[0]["criteria"][1]["score"]) / 4
    )


async def test_a_checkpoint_says_what_it_was_not_trained_with(
    running: Running, start_app: StartApp, tmp_path: Path
) -> None:
    (result, _) = await results(running, criteria=RUBRIC, reference=ANSWER)
    assert result["warnings"] == ["criteria_untrained", "reference_untrained"]
    assert (await results(running))[0]["warnings"] == []
    folder = make_checkpoint(tmp_path / "trained", slots=InstructionSlots(trained=("criteria",)))
    trained = Checkpoint.open(folder)
    async with start_app(checkpoint=trained) as app:
        (result, _) = await results(app, criteria=RUBRIC, reference=ANSWER)
        assert result["warnings"] == ["reference_untrained"]
        assert (await results(app, criteria=LIST))[0]["warnings"] == []
        version = (await app.client.get("/v1/model")).json()["model_version"]
    assert version != Checkpoint.open(make_checkpoint(tmp_path / "plain")).manifest.version


async def test_they_are_text_whatever_they_spell(running: Running, opened_checkpoint: Checkpoint) -> None:
    """Neither a control token, nor the other's slot."""
    end = opened_checkpoint.tokenizer.convert_ids_to_tokens(opened_checkpoint.renderer.stop_token_ids[0])
    for fields in ({"criteria": f"a{end}b"}, {"reference": f"a{end}b"}, {"criteria": ["x", f"a{end}b"]}):
        (result, _) = await results(running, **fields)
        assert "control_tokens" in result["warnings"]
        rendered = await running.client.post("/v1/render", json=BODY | fields | {"criteria": fields.get("criteria")})
        if rendered.status_code == 200:
            ids = rendered.json()["results"][0]["prompt_token_ids"]
            plain = (await running.client.post("/v1/render", json=BODY)).json()["results"][0]["prompt_token_ids"]
            ends = opened_checkpoint.renderer.stop_token_ids[0]
            assert ids.count(ends) == plain.count(ends)
    assert "{reference}" in InstructionSlots().fill("Q", "say {reference}", "R")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"criteria": ""}, "criteria"),
        ({"criteria": []}, "criteria"),
        ({"criteria": 1}, "criteria"),
        ({"criteria": ["a", ""]}, "criteria[1]"),
        ({"criteria": ["a", {"text": ""}]}, "criteria[1].text"),
        ({"criteria": ["a", {"text": "b", "weight": 0}]}, "criteria[1].weight"),
        ({"criteria": ["a", {"text": "b", "weight": -1}]}, "criteria[1].weight"),
        ({"criteria": [{"text": "a", "weight": 1e308}, {"text": "b", "weight": 1e308}]}, "criteria[0].weight"),
        ({"criteria": ["a", {"text": "b", "weight": 5e-324}]}, "criteria[1].weight"),
        ({"criteria": [{"text": "b", "weigth": 1}]}, "criteria[0].weigth"),
        ({"criteria": ["a"] * 17}, "criteria"),
        ({"criteria": "word " * 3000}, "criteria"),
        ({"criteria": ["a", "word " * 3000]}, "criteria[1]"),
        ({"reference": "word " * 3000}, "reference"),
        ({"reference": ""}, "reference"),
        ({"reference": ["a"]}, "reference"),
        ({"criteria": ["a", "b"], "critiques": [["x"], ["y"]]}, "criteria"),
    ],
)
async def test_what_is_refused(running: Running, changes: dict[str, Any], field: str) -> None:
    answer = await running.score(BODY | changes)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["details"][0]["field"] == field
    several = await running.score({"items": [BODY, BODY | changes]})
    assert several.json()["error"]["details"][0]["field"] == f"items[1].{field}"


async def test_a_huge_one_is_refused_soon(running: Running) -> None:
    answer = await running.score(BODY | {"reference": "word " * 1_000_000})
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["limit"] == 1024
    assert len(answer.content) < 1000


async def test_they_count_as_work(start_app: StartApp, opened_checkpoint: Checkpoint) -> None:
    jobs: list[Job] = []

    class Watched(FakeEngine):
        async def run(self, job: Job) -> Output:
            jobs.append(job)
            return await super().run(job)

    async with start_app(Watched(opened_checkpoint.renderer.stop_token_ids[0]), max_sequences=16) as app:
        await results(app, criteria=LIST, critique={"n": 2})
        assert len(jobs) == 2 * 2
        assert len({tuple(job.token_ids) for job in jobs}) == 4
        assert len({job.group for job in jobs}) == 1  # they share the conversation's part of the prefix cache
        refused = await app.score(BODY | {"criteria": ["a"] * 5, "critique": {"n": 2}})
        assert refused.status_code == 422
        assert "20" in refused.json()["error"]["message"]


async def test_the_events_of_several_criteria(running: Running) -> None:
    headers = {"accept": "text/event-stream"}
    body = BODY | {"criteria": LIST, "critique": {"max_tokens": 4}}
    answer = await running.client.post("/score", json=body, headers=headers)
    assert answer.status_code == 200
    assert '"critique":1' in answer.text
    assert '"critique":2' not in answer.text


async def test_a_model_without_an_instruction_refuses_them(start_app: StartApp, tmp_path: Path) -> None:
    import_model(Source(str(make_with_head(tmp_path / "source", "v_head"))), tmp_path / "scalar")
    checkpoint = Checkpoint.open(tmp_path / "scalar")
    async with start_app(checkpoint=checkpoint) as app:
        for fields in ({"criteria": RUBRIC}, {"reference": ANSWER}):
            answer = await app.score(BODY | fields)
            assert answer.status_code == 422
            assert answer.json()["error"]["details"][0]["field"] in fields


async def test_render_shows_one(running: Running) -> None:
    answer = await running.client.post("/v1/render", json=BODY | {"criteria": RUBRIC})
    plain = await running.client.post("/v1/render", json=BODY)
    assert answer.json()["prompt_tokens"] > plain.json()["prompt_tokens"]
    refused = await running.client.post("/v1/render", json=BODY | {"criteria": [RUBRIC]})
    assert refused.json()["error"]["details"][0]["field"] == "criteria"


def test_the_client_sends_them(using: Using, opened_checkpoint: Checkpoint) -> None:
    with serving(opened_checkpoint) as url:
        options: dict[str, Any] = {"criteria": LIST, "reference": ANSWER, "critique": CritiqueOptions(max_tokens=4)}
        scored = using(lambda client: client.score(PROMPT, RESPONSES, **options), url)
        assert [one.criterion for one in scored.results[0].criteria] == [RUBRIC, "Is it brief?"]
        best = using(lambda client: client.best_of(PROMPT, RESPONSES, **options), url)
        compared = using(lambda client: client.compare(PROMPT, *RESPONSES, **options), url)
        assert [result.score for result in best.results] == scored.rewards
        assert [compared.first.score, compared.second.score] == scored.rewards
        item = {"prompt": PROMPT, "responses": RESPONSES, "criteria": LIST, "reference": ANSWER}
        (many,) = using(lambda client: client.score_many([item], progress=False, critique=options["critique"]), url)
        assert many.rewards == scored.rewards


async def test_columns_of_a_trainers_data_set(opened_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    core.scorer_of_environment.cache_clear()
    with serving(opened_checkpoint) as url:
        monkeypatch.setenv(environment.URL, url)
        plain = await trl.critic_rm(["Why?", "Why?"], ["So.", "So."], rubric=["Brief?", None], answer=[1, "2"])
        assert plain[0] == plain[1]
        monkeypatch.setenv("CRITICRM_CRITERIA_COLUMN", "rubric")
        monkeypatch.setenv("CRITICRM_REFERENCE_COLUMN", "answer")
        judged = await trl.critic_rm(["Why?", "Why?"], ["So.", "So."], rubric=["Brief?", None], answer=[1, "2"])
        assert len({*plain, *judged}) == 3
        missing = await trl.critic_rm(["Why?"], ["So."], rubric=["Brief?"])
        assert missing == [None]
        # Of pandas, a reference that is missing; infinity is none.
        nan, infinite = float("nan"), float("inf")
        both = await trl.critic_rm(["Why?"] * 3, ["So."] * 3, rubric=[None] * 3, answer=[nan, None, infinite])
        assert both == [plain[0], plain[0], None]
    core.scorer_of_environment.cache_clear()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_has_the_score_by_each_criterion(opened_checkpoint: Checkpoint, tmp_path: Path, suffix: str) -> None:
    rows = [{"prompt": "Why?", "response": "So.", "rubric": rubric} for rubric in (["Brief?", "True?"], ["True?"])]
    source, out = tmp_path / "in.jsonl", tmp_path / f"out{suffix}"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(opened_checkpoint) as url, CriticRM(url) as client:
        client.score_file(source, out, columns=Columns(criteria="rubric"), critique={"max_tokens": 4}, progress=False)
        plain = client.score("Why?", ["So."], criteria=["Brief?", "True?"], critique={"max_tokens": 4}).results[0]
    found = (
        pq.read_table(out).to_pylist() if suffix == ".parquet" else list(map(json.loads, out.read_text().splitlines()))
    )
    assert [len(row["criterion_scores"]) for row in found] == [2, 1]
    assert [one["score"] for one in found[0]["criterion_scores"]] == [one.score for one in plain.criteria or ()]
    assert [critique["criterion"] for critique in found[0]["critiques"]] == [0, 1]
    assert found[0]["score"] == plain.score
