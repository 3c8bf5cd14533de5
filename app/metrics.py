"""What Prometheus reads: counts from SQL at scrape time, and how long requests took in this process. Never an id in a label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from sqlalchemy import func, select
from sqlmodel import Session, col

from app import endpoints
from app.heartbeat import live_workers
from app.models import Endpoint, Job, Outbox, Step, StepState
from app.store import workers

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

disable_created_metrics()  # a second series for each histogram, which nobody reads


class HttpMetrics:
    """Durations of this process's requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._durations = Histogram(
            "synthq_http_request_duration_seconds",
            "Time until a response began.",
            ["route", "method", "code"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )

    def observe(self, scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
        """Count one request, under its route's template; 0 is the status of one that got no answer."""
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._durations.labels(route=route, method=method, code=str(status)).observe(seconds)


def exposition(session: Session, http: HttpMetrics) -> bytes:
    """The text of ``/metrics``."""
    return generate_latest(_Store(session)) + generate_latest(http.registry)


class _Store(CollectorRegistry):
    """Gauges that are counted when they are read."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def collect(self) -> Iterator[Metric]:
        yield self._jobs()
        yield from self._queues()
        yield self._steps()
        yield from self._workers()
        yield from self._endpoints()
        yield _gauge("synthq_outbox_unsent", "Promises to a queue that were not kept yet.", [((), self._unsent())])
        yield self._lead()

    def _rows(self, query: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._session.connection().execute(query)]

    def _jobs(self) -> Metric:
        rows = self._rows(select(col(Job.kind), col(Job.state), func.count()).group_by(col(Job.kind), col(Job.state)))
        samples = [((kind, state), count) for kind, state, count in rows]
        return _gauge("synthq_jobs", "Jobs in the store.", samples, labels=["kind", "state"])

    def _queues(self) -> Iterator[Metric]:
        stats = workers.queues(self._session)
        parts: dict[str, tuple[str, Sequence[tuple[tuple[str], float]]]] = {
            "synthq_queue_waiting": ("Steps that wait in a queue.", [((q.queue,), q.waiting) for q in stats]),
            "synthq_queue_oldest_age_seconds": (
                "How long the longest-waiting claimable step has waited; 0 when none waits.",
                [((q.queue,), q.oldest_s or 0.0) for q in stats],
            ),
            "synthq_steps_running": ("Steps that workers hold.", [((q.queue,), q.running) for q in stats]),
            "synthq_queue_slots": ("Slots of the live workers that serve a queue.", [((q.queue,), q.slots) for q in stats]),
        }
        for name, (text, samples) in parts.items():
            yield _gauge(name, text, samples, labels=["queue"])

    def _steps(self) -> Metric:
        retried = select(col(Step.kind), func.count()).where(col(Step.state) == StepState.QUEUED, col(Step.attempt) > 0)
        samples = [((kind,), count) for kind, count in self._rows(retried.group_by(col(Step.kind)))]
        return _gauge("synthq_steps_to_retry", "Waiting steps with an attempt behind them.", samples, labels=["kind"])

    def _workers(self) -> Iterator[Metric]:
        alive: dict[str, list[int]] = {}
        for worker in live_workers(self._session):
            alive.setdefault(worker.role, []).append(worker.slots)
        counts = [((role,), len(slots)) for role, slots in alive.items()]
        yield _gauge("synthq_workers", "Live workers.", counts, labels=["role"])
        sums = [((role,), sum(slots)) for role, slots in alive.items()]
        yield _gauge("synthq_worker_slots", "Steps that the live workers can run at once.", sums, labels=["role"])

    def _endpoints(self) -> Iterator[Metric]:
        alive = endpoints.live(self._session)
        states = Counter((each.state, each.engine) for each in alive)
        text = "Engines of live inference workers; those that run none have no engine."
        yield _gauge("synthq_endpoints", text, list(states.items()), labels=["state", "engine"])
        parts: dict[str, tuple[str, Callable[[Endpoint], int]]] = {
            "synthq_endpoint_requests": ("Requests that engines have under way.", lambda each: each.in_flight),
            "synthq_endpoint_capacity": ("Requests that ready engines compute at once.", lambda each: each.capacity),
            "synthq_endpoint_adapters": ("Adapters that engines have loaded.", lambda each: len(each.adapters)),
        }
        for name, (text, count) in parts.items():
            sums: Counter[tuple[str]] = Counter()
            for each in alive:
                if each.engine:
                    sums[(each.engine,)] += count(each)
            yield _gauge(name, text, list(sums.items()), labels=["engine"])

    def _unsent(self) -> int:
        return int(self._rows(select(func.count()).select_from(Outbox).where(col(Outbox.sent_at).is_(None)))[0][0])

    def _lead(self) -> Metric:
        lead = workers.lead(self._session)
        text = "Until the scheduler's lead runs out; below zero: it has. No sample: no scheduler ever led."
        return _gauge("synthq_scheduler_lead_left_seconds", text, [((), lead.left_s)] if lead else [])


def _gauge(name: str, text: str, samples: Sequence[tuple[tuple[str, ...], float]], *, labels: list[str] | None = None) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels or [])
    for values, value in samples:
        family.add_metric(values, value)
    return family
