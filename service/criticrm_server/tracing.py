"""OpenTelemetry traces, where the standard variables ask for them; else nothing of it is imported.

    POST /score                     the request; goes on with the caller's trace (W3C `traceparent`)
    ├── admission                   waiting for room
    ├── render                      from text to token ids
    └── engine                      one for each response: its tokens, and the engine's own times where it gives any

No text of a prompt, a response or a critique is in any span.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from criticrm_model import CriticRMError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span, Tracer
    from starlette.types import Scope

    from .engines.base import Job, Output

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_PROBES = ("/health/", "/metrics")

_tracer: Tracer | None = None

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="")


def is_asked_for() -> bool:
    """Whether the environment names a collector."""
    return any(map(os.environ.get, _ENDPOINTS)) and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"


def require_packages() -> None:
    """Raises CriticRMError if traces are asked for and can't be sent; cheap, so asked before anything is loaded."""
    if is_asked_for() and not _is_installed():
        asked = next(name for name in _ENDPOINTS if os.environ.get(name))
        raise CriticRMError(f"{asked} asks for traces, which need the extra 'otel': pip install 'critic-rm[otel]'")


def _is_installed() -> bool:
    try:
        return all(map(find_spec, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")))
    except ModuleNotFoundError:  # of a parent
        return False


@contextmanager
def exporting(processor: SpanProcessor | None = None) -> Iterator[None]:
    """Record spans until the context is left, and send what is left of them then.

    Args:
        processor: what takes the spans, in place of the collector that the environment names.
    """
    global _tracer
    if processor is None and not is_asked_for():
        yield
        return
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if processor is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        processor = BatchSpanProcessor(OTLPSpanExporter())
    name = os.environ.get("OTEL_SERVICE_NAME", "critic-rm")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name, SERVICE_VERSION: version("critic-rm")}))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("criticrm")
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()


def route_path(scope: Scope) -> str:
    """The path without the prefix of a proxy that leaves it in place (`--root-path`)."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


@contextmanager
def request_span(scope: Scope) -> Iterator[Span | None]:
    """The span of an HTTP request, begun; `record_response` puts on it how it went. Probes have none."""
    if _tracer is None or route_path(scope).startswith(_PROBES):
        yield None
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    with _tracer.start_as_current_span(
        scope["method"],
        extract(headers),
        SpanKind.SERVER,
        {"http.request.method": scope["method"]},
        record_exception=False,  # its message may quote what was sent
        set_status_on_exception=False,
    ) as span:
        yield span


def record_response(span: Span | None, method: str, route: str, status: int, code: str | None, request_id: str) -> None:
    """Put the outcome of a request on its span; `code` is its error's, None if there was none."""
    if span is None:
        return
    span.update_name(f"{method} {route}")
    span.set_attributes({"http.route": route, "http.response.status_code": status, "criticrm.request_id": request_id})
    if code is not None or status >= 500:
        _fail(span, code or str(status))


def record_failure(code: str) -> None:
    """Record that the current request failed after its status was sent, as a stream can."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        _fail(get_current_span(), code)


def _fail(span: Span, kind: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


@contextmanager
def span(name: str) -> Iterator[Span | None]:
    """A part of what the current request is doing. An exception that leaves it is recorded by its class alone."""
    if _tracer is None:
        yield None
        return
    with _tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as begun:
        try:
            yield begun
        except BaseException as error:
            _fail(begun, type(error).__name__)
            raise


def headers_of_job() -> dict[str, str]:
    """What a job that goes to another server carries: the id of its request, and the trace it belongs to."""
    headers = {"X-Request-Id": request_id} if (request_id := current_request_id.get()) else {}
    if _tracer is not None:
        from opentelemetry.propagate import inject

        inject(headers)
    return headers


def record_output(span: Span | None, job: Job, output: Output) -> None:
    """Put the outcome of a job on its span."""
    if span is None:
        return
    attributes: dict[str, Any] = {
        "criticrm.prompt_tokens": len(job.token_ids),
        "criticrm.cached_tokens": output.cached_tokens,
        "criticrm.reused": output.reused,
        "criticrm.critiques": job.n if job.max_tokens > 1 else 0,
        "criticrm.critique_tokens": sum(len(c.token_ids) for c in output.completions) if job.max_tokens > 1 else 0,
        "criticrm.finish_reasons": [completion.finish_reason for completion in output.completions],
    }
    if output.timings is not None:
        attributes |= {
            "criticrm.queue_seconds": output.timings.queue_s,
            "criticrm.prefill_seconds": output.timings.prefill_s,
            "criticrm.decode_seconds": output.timings.decode_s,
        }
    span.set_attributes(attributes)


def trace_id(span: Span | None) -> dict[str, str]:
    """For the request's line in the log."""
    return {} if span is None else {"trace_id": f"{span.get_span_context().trace_id:032x}"}
