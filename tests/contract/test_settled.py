"""`critique.stop`: critiques that end once their reward has settled."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Running, StartApp, Using, serving
from criticrm_client import CritiqueOptions
from criticrm_client.schemas import Settled
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.engines.transformers_engine import TransformersEngine
from criticrm_server.settings import Settings

BODY: dict[str, Any] = {"prompt": "Why?", "responses": ["So.", "Thus."]}
FULL: dict[str, Any] = {"max_tokens": 24, "trace": True}
TOKENS = 3


async def critiques(running: Running, **options: object) -> list[dict[str, Any]]:
    answer = await running.score(BODY | {"critique": FULL | options})
    assert answer.status_code == 200, answer.text
    return [critique for result in answer.json()["results"] for critique in result["critiques"]]


def settled_at(scores: list[float], within: float) -> int:
    for last in range(TOKENS, len(scores)):
        window = scores[last - TOKENS : last + 1]
        if max(window) - min(window) <= within:
            return last
    return len(scores) - 1


def narrow(scores: list[float]) -> float:
    """A range that some part of the trace keeps within, and not the first."""
    ranges = [max(w) - min(w) for w in (scores[i - TOKENS : i + 1] for i in range(TOKENS, len(scores) - 1))]
    return min(ranges[1:])


@pytest.mark.parametrize("engine", ["fake", "transformers"])
@pytest.mark.parametrize("sampling", [{}, {"n": 3, "temperature": 1.0, "seed": 4}])
async def test_the_reward_is_the_full_trace_s_at_that_position(
    start_app: StartApp, opened_checkpoint: Checkpoint, engine: str, sampling: dict[str, Any]
) -> None:
    settings = Settings(engine="transformers", dtype="float32", max_model_len=512)
    real = TransformersEngine(opened_checkpoint, settings) if engine == "transformers" else None
    async with start_app(real, max_model_len=512) as app:
        full = await critiques(app, **sampling)
        within = narrow(full[0]["trace"]["scores"])
        short = await critiques(app, **sampling, stop={"settled": within, "for": TOKENS})
        lengths = (await app.client.get("/metrics")).text
    for whole, cut in zip(full, short, strict=True):
        scores = whole["trace"]["scores"]
        last = settled_at(scores, within)
        assert cut["tokens"] == last + 1
        assert cut["score"] == scores[last]
        assert cut["trace"]["scores"] == scores[: last + 1]
        assert cut["finish_reason"] == ("settled" if last + 1 < len(scores) else whole["finish_reason"])
        assert whole["text"].startswith(cut["text"].rstrip("\ufffd"))
    settled = [cut for cut in short if cut["finish_reason"] == "settled"]
    assert settled
    assert f'criticrm_critiques_total{{finish_reason="settled"}} {len(settled)}.0' in lengths
    assert f"criticrm_settled_critique_tokens_count {len(settled)}.0" in lengths


async def test_the_critique_that_was_ended_reads_the_same_when_it_is_sent_back(
    start_app: StartApp, opened_checkpoint: Checkpoint
) -> None:
    async with start_app(
        TransformersEngine(opened_checkpoint, Settings(engine="transformers", dtype="float32"))
    ) as app:
        full = await critiques(app)
        stop = {"settled": narrow(full[0]["trace"]["scores"]), "for": TOKENS}
        short = await critiques(app, stop=stop)
        sent = [[{"text": one["text"], "finish_reason": one["finish_reason"]}] for one in short]
        again = (await app.score(BODY | {"critiques": sent})).json()["results"]
    for one, result in zip(short, again, strict=True):
        if "\ufffd" not in one["text"]:  # bytes of a character that was not finished
            assert result["score"] == pytest.approx(one["score"], abs=1e-4)


async def test_events_end_where_the_critique_does(running: Running) -> None:
    full = await critiques(running)
    stop = {"settled": narrow(full[0]["trace"]["scores"]), "for": TOKENS}
    expected = await critiques(running, stop=stop)
    body = BODY | {"critique": {"max_tokens": 24, "stop": stop}}
    answer = await running.client.post("/score", json=body, headers={"accept": "text/event-stream"})
    assert answer.text.count("event: token") == sum(one["tokens"] for one in expected)


async def test_what_is_kept_of_greedy_critiques_is_by_their_end(start_app: StartApp) -> None:
    async with start_app(greedy_results_mib=1) as app:
        options = {"max_tokens": 24}
        stop = {"settled": 1.0, "for": TOKENS}
        tokens = [
            (await app.score(BODY | {"critique": options | extra})).json()["results"][0]["critiques"][0]["tokens"]
            for extra in ({}, {"stop": stop}, {}, {"stop": stop})
        ]
    assert tokens[0] == tokens[2] > tokens[1] == tokens[3]


@pytest.mark.parametrize(
    ("stop", "field"),
    [
        ({}, "critique.stop.settled"),
        ({"settled": -0.1}, "critique.stop.settled"),
        ({"settled": 0.1, "for": 0}, "critique.stop.for"),
        ({"settled": 0.1, "for": 513}, "critique.stop.for"),
        ({"settled": 0.1, "for": 1.5}, "critique.stop.for"),
        ({"settled": "0.1"}, "critique.stop.settled"),
        (True, "critique.stop"),
        ("settled", "critique.stop"),
    ],
)
async def test_what_is_refused(running: Running, stop: Any, field: str) -> None:
    answer = await running.score(BODY | {"critique": {"stop": stop}})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["details"][0]["field"] == field


def test_the_client_asks_for_it(using: Using, opened_checkpoint: Checkpoint) -> None:
    with serving(opened_checkpoint) as url:
        options = CritiqueOptions(max_tokens=24, stop=Settled(settled=2.0, tokens=TOKENS))
        assert options.model_dump()["stop"] == {"settled": 2.0, "for": TOKENS}
        scored = using(lambda client: client.score("Why?", ["So."], critique=options), url)
        assert scored.results[0].critiques[0].finish_reason == "settled"
        assert scored.results[0].critiques[0].tokens == TOKENS + 1
