"""The engine's process is killed under load. Before: without prefix cache, and with vLLM's own traces."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from criticrm_model.checkpoint import Checkpoint
from criticrm_server.serve import ENGINE_DEATH_EXIT_CODE
from support.collector import collector
from support.live import Server, wait_until
from support.references import assert_results_of_transformers

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def collected() -> Iterator[tuple[str, list[Any]]]:
    """The collector's URL, and the spans that it has."""
    with collector() as (url, spans), pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield url, spans


@pytest.fixture(scope="module")
def server(
    collected: tuple[str, list[Any]], tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "screen.log"
    options = ("--dtype", "float32", "--prefix-caching", "false", "--greedy-results-mib", "0")
    traces = f"otlp_traces_endpoint={collected[0]}/v1/traces"
    with Server(str(tiny_checkpoint), *options, "--vllm-args", traces, log=log) as server:
        yield server


def test_vllm_s_spans_are_part_of_the_caller_s_trace(server: Server, collected: tuple[str, list[Any]]) -> None:
    trace = secrets.token_hex(16)
    body = {"prompt": "Why?", "responses": ["So."]}
    with httpx.Client(base_url=server.url) as client:
        client.post("/score", json=body, headers={"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"})

    def of_the_trace() -> dict[str, Any]:
        return {span.name: span for span in list(collected[1]) if span.trace_id.hex() == trace}

    wait_until(lambda: {"engine", "llm_request"} <= of_the_trace().keys(), 30, lambda: str(sorted(of_the_trace())))
    assert of_the_trace()["llm_request"].parent_span_id == of_the_trace()["engine"].span_id


def test_without_prefix_cache_greedy_critiques_and_scores_are_those_of_transformers(
    server: Server, opened_checkpoint: Checkpoint
) -> None:
    prompt, responses = "a long story " * 60, [f"Answer {number}." for number in range(32)]
    for _ in range(2):
        answer = server.score(prompt=prompt, responses=responses, critique={"max_tokens": 24}).json()
        assert answer["usage"]["cached_tokens"] == 0
        assert_results_of_transformers(answer["results"], opened_checkpoint, prompt, responses, max_tokens=24)


async def test_a_killed_engine_is_told_to_all_and_ends_the_server(server: Server) -> None:
    """Ends the server: the last test of this file."""
    async with server.client() as client, server.client() as late:
        assert (await late.get("/health/ready")).status_code == 200
        slow = {"prompt": "Why?", "responses": ["So."], "critique": {"n": 8, "max_tokens": 400, "temperature": 1}}
        waiting = [asyncio.create_task(client.post("/score", json=slow)) for _ in range(40)]
        while server.metric("vllm:num_requests_running") < 64:
            await asyncio.sleep(0.05)
        server.engine_core().kill()
        killed = time.monotonic()
        answers = await asyncio.gather(*waiting)
        assert time.monotonic() - killed < 10
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.json()["error"]["code"] for answer in answers} == {"engine_dead"}
        assert all(answer.headers["retry-after"] for answer in answers)
        unready = await _get_ready(late)
        assert unready is None or unready.status_code == 503
    assert server.exit_code(timeout_s=60) == ENGINE_DEATH_EXIT_CODE
    assert server.left_behind() == []


async def _get_ready(client: httpx.AsyncClient) -> httpx.Response | None:
    """None where the server is gone already."""
    try:
        return await client.get("/health/ready")
    except httpx.TransportError:
        return None
