"""eval: play every seed with every policy, then score what was played."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from app.models import JobState, Queue, StepState
from app.plots.base import Ending, EpisodeId, JobView, StepPlan, StepView
from app.plots.play import apart, chunks, play_step
from app.specs.policies import MODEL, policy_name

STEPS_WANTED = 16
"""Steps that an eval is cut into when it is small, so that several workers share it."""
MOST_EPISODES_A_STEP = 8
"""Episodes in one step when the eval is large: enough to make a step's own cost small, few enough to lose little in a crash."""
SHARES_WANTED = 4
"""Steps that a small eval of a model is cut into: episodes of one step share an engine's batch, so there are fewer of them."""


def episodes_of(spec: dict[str, Any]) -> list[EpisodeId]:
    """Every episode that an eval asks for. Member = policy's place x episodes_per_seed + repeat."""
    table = spec["eval"]
    members = range(len(table["policies"]) * table["episodes_per_seed"])
    return [(0, seed, member) for seed, member in product(table["seeds"], members)]


def policy_of(spec: dict[str, Any], member: int) -> str:
    """Name of the policy that plays a member."""
    table = spec["eval"]
    return str(table["policies"][member // table["episodes_per_seed"]])


def _size(size: int | None, episodes: list[EpisodeId], *, most: int, wanted: int) -> int:
    """Episodes of one step."""
    return size or min(most, max(1, -(-len(episodes) // wanted)))


def _shares(spec: dict[str, Any], episodes: list[EpisodeId]) -> list[tuple[str | None, Sequence[EpisodeId]]]:
    """The episodes as steps play them. Those of a model that synthq serves stand apart, under its label: an engine that serves
    one model at a time is then asked for one after the other."""
    table = spec["eval"]
    size = table.get("episodes_per_step")
    models = [label for label in table["policies"] if policy_name(label)[0] == MODEL]
    rest = [episode for episode in episodes if policy_of(spec, episode[2]) not in models]
    whole = _size(size, rest, most=MOST_EPISODES_A_STEP, wanted=STEPS_WANTED)
    shares: list[tuple[str | None, Sequence[EpisodeId]]] = [(None, chunk) for chunk in chunks(rest, whole)]
    for label in models:
        own = [episode for episode in episodes if policy_of(spec, episode[2]) == label]
        share = _size(size, own, most=table["episodes_in_flight"], wanted=SHARES_WANTED)
        shares += [(label, chunk) for chunk in chunks(own, share)]
    return shares


REPORT = StepPlan(key="report", kind="report", queue=Queue.DATA)


class EvalPlot:
    """Play steps of a few episodes each, then one report step. One bad episode never ends the others."""

    def most_at_once(self, spec: dict[str, Any]) -> int | None:
        limit: int | None = spec["eval"].get("concurrency")
        return limit

    def begin(self, job: JobView) -> list[StepPlan]:
        done = job.done_episodes()
        missing = [episode for episode in episodes_of(job.spec) if episode not in done]
        shares = _shares(job.spec, missing)
        return [play_step(f"play/{i:05d}", chunk, label) for i, (label, chunk) in enumerate(shares)] or [REPORT]

    def advance(self, job: JobView, steps: Sequence[StepView]) -> list[StepPlan] | Ending:
        report = next((step for step in steps if step.kind == "report"), None)
        if report is None:
            return apart(steps) or [REPORT]
        if report.state != StepState.SUCCEEDED:
            return Ending(state=JobState.FAILED, reason=f"the report could not be made: {report.reason}")
        return self._ending(report.result or {}, steps)

    def _ending(self, summary: dict[str, Any], steps: Sequence[StepView]) -> Ending:
        counts = summary["episodes"]
        missing = counts["asked"] - counts["done"]
        if not missing:
            return Ending(state=JobState.SUCCEEDED, summary=summary)
        reason = f"{missing} of {counts['asked']} episodes failed: {self._why(summary, steps)}"
        return Ending(state=JobState.FAILED, reason=reason, summary=summary)

    def _why(self, summary: dict[str, Any], steps: Sequence[StepView]) -> str:
        errors = summary.get("errors") or []
        if errors:
            return f"seed {errors[0]['seed']}: {errors[0]['error']}"
        return next(
            (step.reason for step in reversed(steps) if step.state == StepState.FAILED and step.reason), "no reason is known"
        )
