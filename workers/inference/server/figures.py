"""What Prometheus reads of one engine: requests, tokens, where the time went, and the engine's own counts. No id in a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.inference.core.request import Generated
from workers.inference.server.ask import Ask

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PHASES: Final = ("processor", "queue", "prefill", "decode", "answer")

disable_created_metrics()  # a second series for each histogram, which nobody reads


class Figures:
    """Counts and durations of this process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "synthq_engine_requests", "Requests by the status of their answer.", ["status"], registry=self.registry
        )
        self._cancelled = Counter("synthq_engine_cancelled", "Requests whose caller went away.", registry=self.registry)
        tokens = Counter(
            "synthq_engine_tokens",
            "Tokens of prompts and replies; prefix: of prompts, and not computed again.",
            ["kind"],
            registry=self.registry,
        )
        self._prompt, self._prefix, self._reply = (tokens.labels(kind=kind) for kind in ("prompt", "prefix", "reply"))
        phases = Histogram(
            "synthq_engine_phase_seconds", "Where the time of requests went.", ["phase"], buckets=SECONDS, registry=self.registry
        )
        self._phases = {phase: phases.labels(phase=phase) for phase in PHASES}
        self._seconds = Histogram(
            "synthq_engine_request_seconds", "From a request's body to its answer.", buckets=SECONDS, registry=self.registry
        )
        self._batches = Histogram(
            "synthq_engine_batch_requests",
            "Requests that came in one body.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=self.registry,
        )

    def served(self, ask: Ask, reply: Generated, *, answer_s: float, whole_s: float) -> None:
        """Count one request that has its reply. ``answer_s``: what it took to write the answer."""
        self._requests.labels(status="200").inc()
        self._prompt.inc(len(ask.prompt.ids))
        self._prefix.inc(reply.prefix_tokens)
        self._reply.inc(len(reply.ids))
        self._phases["processor"].observe(ask.processor_ms / 1000)
        self._phases["answer"].observe(answer_s)
        for phase, ms in reply.timings_ms.items():
            if phase in self._phases:
                self._phases[phase].observe(ms / 1000)
        self._seconds.observe(whole_s)

    def refused(self, status: int) -> None:
        """Count one request that has none."""
        self._requests.labels(status=str(status)).inc()

    def cancelled(self) -> None:
        """Count one that nobody waits for any more."""
        self._cancelled.inc()

    def batch(self, requests: int) -> None:
        """Count a body of several requests."""
        self._batches.observe(requests)

    def exposition(self, engine: Mapping[str, Any]) -> bytes:
        """The text of ``/metrics``; ``engine`` is the engine's own figures."""
        own = CollectorRegistry()
        own.register(_Numbers(engine))
        return generate_latest(self.registry) + generate_latest(own)


class _Numbers(Collector):
    """The engine's figures as they stand, those in a mapping under the names of both."""

    def __init__(self, figures: Mapping[str, Any]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        for name, value in _flat(self._figures):
            yield GaugeMetricFamily(f"synthq_engine_{name}", "A figure of the engine's own.", value=value)


def _flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}_")
        elif isinstance(value, bool | int | float):
            yield f"{before}{name}", float(value)
