"""Traces: what is in them, what is not, and that there is nothing of them where nobody asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from conftest import Running
from criticrm_model import CriticRMError
from criticrm_server import tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    with tracing.exporting(SimpleSpanProcessor(exporter)):
        yield exporter


def by_name(spans: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in spans.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_a_request_and_its_parts(running: Running, spans: InMemorySpanExporter, accept: str) -> None:
    answer = await running.client.post(
        "/score",
        json={"prompt": "a secret prompt", "responses": ["a secret response", "another"], "critique": {"n": 2}},
        headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine", "accept": accept},
    )
    assert answer.status_code == 200
    found = by_name(spans)
    assert {name: len(some) for name, some in found.items()} == {
        "POST /score": 1, "admission": 1, "render": 1, "engine": 2,
    }  # fmt: skip
    (request,) = found["POST /score"]
    assert f"{request.context.trace_id:032x}" == TRACE
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["criticrm.request_id"] == "mine"
    for name in ("admission", "render", "engine"):
        for part in found[name]:
            assert part.parent is not None
            assert part.parent.span_id == request.context.span_id
            assert request.start_time <= part.start_time <= part.end_time <= request.end_time  # type: ignore[operator]
    for part in found["engine"]:
        assert part.attributes is not None
        assert part.attributes["criticrm.critiques"] == 2
        assert part.attributes["criticrm.prompt_tokens"] > 1  # type: ignore[operator]
        assert part.attributes["criticrm.finish_reasons"] == ("stop", "stop")
    assert "secret" not in "".join(span.to_json() for span in spans.get_finished_spans())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [({"prompt": "Why?", "responses": []}, 422, "invalid_request"), (None, 503, "engine_dead")],
)
async def test_what_failed(
    running: Running, spans: InMemorySpanExporter, body: dict[str, object] | None, status: int, code: str
) -> None:
    if body is None:
        running.engine.die()
    answer = await running.score(body or {"prompt": "Why?", "responses": ["So."]})
    assert answer.status_code == status
    found = by_name(spans)
    (request,) = found["POST /score"]
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes is not None
    assert request.attributes["error.type"] == code
    if body is None:
        assert found["engine"][0].status.status_code is StatusCode.ERROR


async def test_a_stream_that_fails_late_and_an_exception_that_quotes_its_text(
    running: Running, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"prompt": "Why?", "responses": ["So."]}
    headers = {"accept": "application/x-ndjson"}
    running.engine.die()
    answer = await running.client.post("/score", json=body, headers=headers)
    assert json.loads(answer.text.splitlines()[-1])["error"]["code"] == "engine_dead"

    async def broken(_: object) -> None:
        raise ValueError("a secret prompt")

    monkeypatch.setattr(running.engine, "run", broken)
    for asked in ({}, headers):
        with suppress(ValueError):
            await running.client.post("/score", json=body, headers=asked)
    requests = by_name(spans)["POST /score"]
    assert len(requests) == 3
    kinds = [span.attributes["error.type"] for span in requests if span.attributes]
    assert kinds == ["engine_dead", "internal", "internal"]
    assert all(span.status.status_code is StatusCode.ERROR for span in requests)
    assert "secret" not in "".join(span.to_json() for span in spans.get_finished_spans())


async def test_probes_have_no_spans_and_unknown_paths_no_name_of_theirs(
    running: Running, spans: InMemorySpanExporter
) -> None:
    for path in ("/health/ready", "/metrics", "/secret"):
        await running.client.get(path)
    assert set(by_name(spans)) == {"GET unmatched"}


def test_nothing_is_imported_where_nobody_asked() -> None:
    program = (
        "import sys, criticrm_server.app; from criticrm_server.tracing import exporting, span, require_packages\n"
        "require_packages()\n"
        "with exporting(), span('a'): pass\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_asked_for_and_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    tracing.require_packages()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    tracing.require_packages()
    monkeypatch.setattr(tracing, "find_spec", lambda _: None)
    with pytest.raises(CriticRMError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT asks for traces.*critic-rm\[otel\]"):
        tracing.require_packages()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracing.require_packages()
