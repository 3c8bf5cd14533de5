"""Jobs that are one kind of step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.models import JobState, Queue
from app.plots.base import Ending, JobView, StepPlan, StepView, first_failure


class SingleStep:
    """A job that is done when its step is: ``spec["steps"]`` of them (1 unless the spec says otherwise), all alike."""

    def __init__(self, kind: str, queue: Queue = Queue.DATA) -> None:
        self.kind, self.queue = kind, queue

    def most_at_once(self, spec: dict[str, Any]) -> int | None:
        return None

    def begin(self, job: JobView) -> list[StepPlan]:
        count = int(job.spec.get("steps", 1))
        return [StepPlan(key=f"{self.kind}/{i:05d}", kind=self.kind, queue=self.queue) for i in range(count)]

    def advance(self, job: JobView, steps: Sequence[StepView]) -> list[StepPlan] | Ending:
        failed = first_failure(steps)
        if failed:
            return Ending(state=JobState.FAILED, reason=failed.reason)
        return Ending(state=JobState.SUCCEEDED, summary=steps[-1].result)
