"""`/metrics`: what is there, and that it counts what happened."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from conftest import Running, StartApp
from criticrm_model import Moments
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.manifest import Calibration
from criticrm_server.engines.base import Job, Output

GOOD: dict[str, Any] = {"prompt": "Q", "responses": ["A", "B"]}
NDJSON = {"accept": "application/x-ndjson"}
# Dashboards and alerts hang on these.
NAMES = {
    "requests": "counter",
    "errors": "counter",
    "tokens": "counter",
    "critiques": "counter",
    "reused_results": "counter",
    "selected_responses": "counter",
    "truncations": "counter",
    "request_seconds": "histogram",
    "admission_seconds": "histogram",
    "queue_seconds": "histogram",
    "prefill_seconds": "histogram",
    "decode_seconds": "histogram",
    "critique_tokens": "histogram",
    "settled_critique_tokens": "histogram",
    "score": "histogram",
    "direct_score": "histogram",
    "sequences": "gauge",
    "waiting_requests": "gauge",
    "self_check_rms": "gauge",
}


async def read(running: Running) -> dict[str, float]:
    """Each sample by its name and labels, as written."""
    response = await running.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    lines = (line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def test_every_metric_has_its_name_and_a_word_of_help(running: Running) -> None:
    await running.client.post("/score", json=GOOD)
    text = (await running.client.get("/metrics")).text
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith("criticrm_")]
    assert {f.name.removeprefix("criticrm_"): f.type for f in families if not f.name.endswith("_created")} == NAMES
    assert all(family.documentation for family in families)
    assert "python_info" in text  # the process's own metrics, and vLLM's, come along


async def test_metrics_count_what_happened(running: Running) -> None:
    await running.client.post("/score", json=GOOD | {"critique": {"max_tokens": 5}})
    await running.client.post("/score", json={"prompt": "word " * 2000, "responses": ["A"], "on_overflow": "truncate"})
    await running.client.post("/score", json=GOOD | {"prompt": 1})
    await running.client.post("/score", json={"prompt": "Q", "responses": ["A", "word " * 2000]})
    values = await read(running)
    assert values['criticrm_requests_total{route="/score",status="200"}'] == 3
    assert values['criticrm_requests_total{route="/score",status="422"}'] == 1
    assert values['criticrm_errors_total{code="invalid_request"}'] == 1
    assert values['criticrm_errors_total{code="prompt_too_long"}'] == 1
    # The second request was cut; of the last one, a response was too long.
    assert values["criticrm_truncations_total"] == 1
    assert values["criticrm_score_count"] == values["criticrm_direct_score_count"] == 4
    assert values["criticrm_critique_tokens_sum"] == values['criticrm_tokens_total{kind="critique"}'] == 5 + 5 + 24 + 24
    assert values['criticrm_critiques_total{finish_reason="stop"}'] == 4
    assert values["criticrm_decode_seconds_count"] == 4
    assert values["criticrm_sequences"] == values["criticrm_waiting_requests"] == 0


async def test_scores_fall_into_their_buckets(running: Running) -> None:
    """Two responses score above 1.5 and below -1.5; before a critique, 0.25 less."""

    async def made_up(job: Job) -> Output:
        output = await run(job)
        (completion,) = output.completions
        score = 1.6 if len(job.token_ids) % 2 else -1.6
        changed = type(completion)(completion.token_ids, "length", score - 0.25, score)
        return Output([changed], cached_tokens=7)

    run = running.engine.run
    running.service.engine.run = made_up
    odd_and_even = {"prompt": "Q", "responses": ["A", "AA"]}
    lengths = [r["usage"]["prompt_tokens"] for r in (await running.score(odd_and_even)).json()["results"]]
    values = await read(running)
    assert len({length % 2 for length in lengths}) == 2
    assert values['criticrm_direct_score_bucket{le="-1.0"}'] == values['criticrm_direct_score_bucket{le="1.0"}'] == 1
    assert values['criticrm_score_bucket{le="-2.0"}'] == 0
    assert values['criticrm_score_bucket{le="-1.0"}'] == values['criticrm_score_bucket{le="1.0"}'] == 1
    assert values['criticrm_score_bucket{le="2.0"}'] == 2
    assert values['criticrm_critiques_total{finish_reason="length"}'] == 2
    assert values['criticrm_tokens_total{kind="cached"}'] == 14
    assert values["criticrm_decode_seconds_count"] == 0  # this engine told no times


async def test_a_score_without_a_critique_is_no_critique(running: Running) -> None:
    await running.client.post("/score", json=GOOD | {"critique": False})
    values = await read(running)
    assert values["criticrm_score_count"] == 2
    assert values["criticrm_critique_tokens_count"] == values['criticrm_tokens_total{kind="critique"}'] == 0
    assert values["criticrm_admission_seconds_count"] == 1


async def test_an_error_that_ends_a_stream_is_counted(start_app: StartApp) -> None:
    async with start_app(deadline_s=0.02) as app:
        app.engine.delay_s = 60
        await app.client.post("/score", json=GOOD, headers=NDJSON)
        values = await read(app)
    assert values['criticrm_errors_total{code="deadline_exceeded"}'] == 1
    assert values['criticrm_requests_total{route="/score",status="200"}'] == 1


async def test_paths_that_are_no_route_share_one_label(running: Running) -> None:
    """Or a scanner would make a time series of each path it tries."""
    for path in ("/admin", "/wp-login.php"):
        await running.client.get(path)
    assert (await read(running))['criticrm_requests_total{route="unmatched",status="404"}'] == 2


async def test_scores_are_counted_in_reward_units_whatever_was_asked(
    start_app: StartApp, opened_checkpoint: Checkpoint
) -> None:
    """Or normalised ones would move the median that the drift alert watches."""
    moments = Moments(mean=100.0, std=0.01)
    manifest = opened_checkpoint.manifest.model_copy(
        update={"calibration": Calibration(reference_set="test", n=2, score=moments, direct_score=moments)}
    )
    async with start_app(checkpoint=replace(opened_checkpoint, manifest=manifest)) as app:
        answer = await app.score(GOOD | {"normalize": True})
        values = await read(app)
    assert all(result["score"] < -20 for result in answer.json()["results"])
    for name in ("score", "direct_score"):
        assert values[f'criticrm_{name}_bucket{{le="-20.0"}}'] == 0
        assert values[f"criticrm_{name}_count"] == 2


async def test_a_wait_that_ended_in_503_is_counted(start_app: StartApp) -> None:
    async with start_app(max_sequences=2, max_critiques=1, queue_timeout_s=0.02) as app:
        app.engine.delay_s = 0.2
        admitted = asyncio.create_task(app.score(GOOD))
        while not app.engine.running:
            await asyncio.sleep(0)
        assert (await app.score(GOOD)).status_code == 503
        await admitted
        values = await read(app)
    assert values["criticrm_admission_seconds_count"] == 2
    assert values["criticrm_admission_seconds_sum"] >= 0.02
