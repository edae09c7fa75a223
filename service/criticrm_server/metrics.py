"""Prometheus metrics of the service, shown at `/metrics` next to vLLM's own."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import get_args

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from criticrm_client.schemas import Result
from criticrm_model import FinishReason

from .admission import Admission
from .checks import Check
from .engines.base import Output

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024)
_SCORES = (-20, -10, -5, -3, -2, -1, -0.5, 0, 0.5, 1, 2, 3, 5, 10, 20)
# vLLM keeps no times for a request with several samples; its own histograms count each of them.
_ONE = " (responses with one completion only; not for reused results, nor with the engine `remote`)"


class Metrics:
    """A registry of its own, so that two apps in one process do not collide."""

    def __init__(self, admission: Admission) -> None:
        self.registry = registry = CollectorRegistry()
        self._answered: dict[tuple[str, int], tuple[Counter, Histogram]] = {}  # by route and status
        self.requests = Counter(
            "criticrm_requests",
            "HTTP requests answered, by route and status code.",
            ["route", "status"],
            registry=registry,
        )
        self.errors = Counter(
            "criticrm_errors",
            "Errors by code: each failed request and each failed result of a request counts as one.",
            ["code"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "criticrm_request_seconds",
            "Seconds from the first byte of a request to the last byte of its response.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.admission_seconds = Histogram(
            "criticrm_admission_seconds",
            "Seconds that a request waited for admission; requests that were refused or cancelled are counted too.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._add_work(registry)
        self._add_critiques(registry)
        self._add_load(registry, admission)
        self._self_check = Gauge(
            "criticrm_self_check_rms",
            "Root mean square difference of a self-check at start-up, in reward units; absent if it was skipped.",
            ["check"],
            registry=registry,
        )

    def _add_work(self, registry: CollectorRegistry) -> None:
        """What the engine did for results."""
        self.queue_seconds = Histogram(
            "criticrm_queue_seconds", f"Seconds in the engine's queue{_ONE}.", buckets=_SECONDS, registry=registry
        )
        self.prefill_seconds = Histogram(
            "criticrm_prefill_seconds", f"Seconds of prefill{_ONE}.", buckets=_SECONDS, registry=registry
        )
        self.decode_seconds = Histogram(
            "criticrm_decode_seconds", f"Seconds of decoding the critique{_ONE}.", buckets=_SECONDS, registry=registry
        )
        self.tokens = Counter(
            "criticrm_tokens",
            "Tokens by kind: in prompts, of these read from a cache (`cached`), and in critiques (reused not counted).",
            ["kind"],
            registry=registry,
        )
        # Looked up once: each look-up takes as long as counting does.
        self._tokens = [self.tokens.labels(kind) for kind in ("prompt", "cached", "critique")]
        self.reused = Counter(
            "criticrm_reused_results",
            "Results reused from an identical greedy request that was cached or in flight.",
            registry=registry,
        )
        self.truncations = Counter(
            "criticrm_truncations",
            "Responses scored with a prompt that was truncated to the model's length limit.",
            registry=registry,
        )
        self.score = Histogram(
            "criticrm_score",
            "Mean score of a response over its critiques, in reward units, before normalisation.",
            buckets=_SCORES,
            registry=registry,
        )
        self.direct_score = Histogram(
            "criticrm_direct_score",
            "Score of a response before any critique, in reward units, before normalisation.",
            buckets=_SCORES,
            registry=registry,
        )

    def _add_critiques(self, registry: CollectorRegistry) -> None:
        """Which were written, and how they ended."""
        self.critique_tokens = Histogram(
            "criticrm_critique_tokens",
            "Tokens in a critique; those of reused results are counted too.",
            buckets=_TOKENS,
            registry=registry,
        )
        self.settled_tokens = Histogram(
            "criticrm_settled_critique_tokens",
            "Tokens in a critique that ended because its reward had settled.",
            buckets=_TOKENS,
            registry=registry,
        )
        self.critiques = Counter(
            "criticrm_critiques",
            "Critiques by end: by the model (`stop`), at the token limit (`length`), or because the reward had settled "
            "(`settled`); reused ones are counted too.",
            ["finish_reason"],
            registry=registry,
        )
        self.selections = Counter(
            "criticrm_selected_responses",
            "Responses of requests that critique close ones only (`critique.when`), by whether they got a critique.",
            ["critiqued"],
            registry=registry,
        )
        self._selections = {flag: self.selections.labels(str(flag).lower()) for flag in (True, False)}
        self._critiques = {reason: self.critiques.labels(reason) for reason in get_args(FinishReason)}

    def _add_load(self, registry: CollectorRegistry, admission: Admission) -> None:
        """Gauges of admission, read at each scrape."""
        admitted = Gauge(
            "criticrm_sequences",
            "Sequences admitted and not finished; requests that wait for admission are not counted.",
            registry=registry,
        )
        admitted.set_function(lambda: admission.admitted)
        waiting = Gauge("criticrm_waiting_requests", "Requests that wait for admission.", registry=registry)
        waiting.set_function(lambda: admission.waiting)

    def show_self_check(self, checks: Sequence[Check]) -> None:
        """Once, when the engine has passed."""
        for check in checks:
            self._self_check.labels(check.name).set(check.rms)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count one HTTP request."""
        if (route, status) not in self._answered:  # looking labels up takes as long as counting does
            self._answered[route, status] = self.requests.labels(route, str(status)), self.request_seconds.labels(route)
        count, duration = self._answered[route, status]
        count.inc()
        duration.observe(seconds)

    def observe(self, result: Result, outputs: Sequence[Output], wrote_critiques: bool) -> None:
        """Count one result; `outputs` are what the engine returned for it, none if it failed."""
        if result.error is not None:
            self.errors.labels(result.error.code).inc()
        if result.status == "truncated":
            self.truncations.inc()
        usage = result.usage
        critique_tokens = 0 if usage.cached else usage.critique_tokens
        counts = (usage.prompt_tokens, usage.cached_tokens, critique_tokens)
        for counter, count in zip(self._tokens, counts, strict=True):
            if count:
                counter.inc(count)
        if usage.cached:
            self.reused.inc()
        for output in outputs:
            self._observe_output(output, wrote_critiques)

    def observe_selection(self, critiqued: int, responses: int) -> None:
        """Count the responses of one request with `critique.when: "close"`."""
        self._selections[True].inc(critiqued)
        self._selections[False].inc(responses - critiqued)

    def _observe_output(self, output: Output, wrote_critiques: bool) -> None:
        # From the engine's output: a request may ask for normalised ones.
        self.score.observe(statistics.fmean(completion.score for completion in output.completions))
        self.direct_score.observe(output.completions[0].direct_score)
        if output.timings is not None:
            self.queue_seconds.observe(output.timings.queue_s)
            self.prefill_seconds.observe(output.timings.prefill_s)
            self.decode_seconds.observe(output.timings.decode_s)
        if wrote_critiques:
            for completion in output.completions:
                self.critique_tokens.observe(len(completion.token_ids))
                self._critiques[completion.finish_reason].inc()
                if completion.finish_reason == "settled":
                    self.settled_tokens.observe(len(completion.token_ids))

    def render(self) -> bytes:
        """The text format: this service's metrics, then those in the global registry, where vLLM keeps its own."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)
