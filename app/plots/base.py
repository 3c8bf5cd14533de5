"""The plot of a job: which steps go out next, given what is done. Pure: no database, no clock, no randomness.

A plot is asked at the start, and again each time all steps that it asked for have ended. It answers with more steps or with an
ending. Because it is pure and a step's key always means the same work, it may be asked twice without harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.models import JobState, Queue, StepState


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """A step to be made."""

    key: str
    """Names the work inside one attempt of the job, such as ``play/0007``."""
    kind: str
    queue: Queue
    payload: dict[str, Any] = field(default_factory=dict)
    total: int = 1
    """Units of work in it, for progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """What a plot may know of a step that has ended."""

    key: str
    kind: str
    state: StepState
    reason: str | None
    payload: dict[str, Any]
    result: dict[str, Any] | None


EpisodeId = tuple[int, int, int]
"""(iteration, seed, member)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """What a plot may know of its job."""

    spec: dict[str, Any]
    """The resolved spec."""
    done_episodes: Callable[[], frozenset[EpisodeId]]
    """The job's episodes that were played to their end, in any attempt. Asked for only when needed."""
    seconds: Callable[[], float] = lambda: 0.0
    """How long the present attempt has run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a job ends."""

    state: JobState
    reason: str | None = None
    summary: dict[str, Any] | None = None


class Plot(Protocol):
    """One job kind's plot."""

    def most_at_once(self, spec: dict[str, Any]) -> int | None:
        """How many steps of the job may run at once; None for no limit of its own."""

    def begin(self, job: JobView) -> list[StepPlan]:
        """The first steps of an attempt. Never empty."""

    def advance(self, job: JobView, steps: Sequence[StepView]) -> list[StepPlan] | Ending:
        """What comes after ``steps``, the attempt's steps so far, all of them ended."""


def first_failure(steps: Sequence[StepView]) -> StepView | None:
    """The first step that did not succeed, in order."""
    return next((step for step in steps if step.state != StepState.SUCCEEDED), None)
