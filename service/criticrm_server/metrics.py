"""Prometheus metrics of the service, shown at `/metrics` next to vLLM's own."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .admission import Admission
from .engines.base import Output
from .schemas import Result

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024)
_SCORES = (-20, -10, -5, -3, -2, -1, -0.5, 0, 0.5, 1, 2, 3, 5, 10, 20)
# vLLM keeps no times for a request of several samples; its own histograms count each of them.
_ONE = ", where one was written"


class Metrics:
    """A registry of its own, so that two apps in one process do not collide."""

    def __init__(self, admission: Admission) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "criticrm_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.errors = Counter(
            "criticrm_errors", "Errors by code, of requests and of single results.", ["code"], registry=registry
        )
        self.request_seconds = Histogram(
            "criticrm_request_seconds",
            "Time from the first byte in to the last byte out.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.admission_seconds = Histogram(
            "criticrm_admission_seconds", "Wait for room in the house.", buckets=_SECONDS, registry=registry
        )
        self.queue_seconds = Histogram(
            "criticrm_queue_seconds", f"Wait in the engine's queue{_ONE}.", buckets=_SECONDS, registry=registry
        )
        self.prefill_seconds = Histogram(
            "criticrm_prefill_seconds", f"Time on the prompt{_ONE}.", buckets=_SECONDS, registry=registry
        )
        self.decode_seconds = Histogram(
            "criticrm_decode_seconds", f"Time on the critique{_ONE}.", buckets=_SECONDS, registry=registry
        )
        self.tokens = Counter(
            "criticrm_tokens", "Tokens: of prompts, found in the cache, of critiques.", ["kind"], registry=registry
        )
        self.critique_tokens = Histogram(
            "criticrm_critique_tokens", "Length of a critique.", buckets=_TOKENS, registry=registry
        )
        self.critiques = Counter(
            "criticrm_critiques", "Critiques by the reason they ended.", ["finish_reason"], registry=registry
        )
        self.truncations = Counter("criticrm_truncations", "Prompts cut to fit.", registry=registry)
        self.score = Histogram("criticrm_score", "Scores given, in reward units.", buckets=_SCORES, registry=registry)
        self.direct_score = Histogram(
            "criticrm_direct_score", "Scores before any critique.", buckets=_SCORES, registry=registry
        )
        in_house = Gauge("criticrm_sequences", "Sequences in the house.", registry=registry)
        in_house.set_function(lambda: admission.in_house)
        waiting = Gauge("criticrm_waiting_requests", "Requests that wait for room.", registry=registry)
        waiting.set_function(lambda: admission.waiting)

    def observe(self, result: Result, output: Output | None, wrote_critiques: bool) -> None:
        """Count one result; `output` is what the engine gave for it, if it got that far."""
        if result.error is not None:
            self.errors.labels(result.error.code).inc()
        if result.status == "truncated":
            self.truncations.inc()
        usage = result.usage
        self.tokens.labels("prompt").inc(usage.prompt_tokens)
        self.tokens.labels("cached").inc(usage.cached_tokens)
        self.tokens.labels("critique").inc(usage.critique_tokens)
        if output is None or result.score is None or result.direct_score is None:
            return
        self.score.observe(result.score)
        self.direct_score.observe(result.direct_score)
        if output.timings is not None:
            self.queue_seconds.observe(output.timings.queue_s)
            self.prefill_seconds.observe(output.timings.prefill_s)
            self.decode_seconds.observe(output.timings.decode_s)
        if wrote_critiques:
            for completion in output.completions:
                self.critique_tokens.observe(len(completion.token_ids))
                self.critiques.labels(completion.finish_reason).inc()

    def render(self) -> bytes:
        """The text format: this service's metrics, then those in the global registry, where vLLM keeps its own."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)
