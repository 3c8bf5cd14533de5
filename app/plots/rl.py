"""rl: begin, then play and update in turn, with evaluations between, an evaluation at the end, and a report.

    begin -> {play/0, eval/0} -> {update/0, score/0} -> play/1 -> update/1 -> ... -> eval/N -> report -> keep    staleness 0
    begin -> {play/0, eval/0} -> {update/0, score/0, play/1} -> {update/1, play/2} -> ... -> report -> keep      staleness 1

Where groups begin in the middle of episodes (``[curriculum]``), a step ``starts`` beside ``begin`` says which there are.
``eval/<i>`` tries the model after ``i`` updates, so no update runs beside it; ``blank/<i>``, where it is due, does so with black
pictures. Update ``i`` learns from play ``i``, and goes on
when ``rollout.min_share`` of it was played; what was not is counted by the report. A step that plays and fails is played once
more, each of its episodes apart. In a round of DAgger (``[dagger]``) the expert is asked about play ``i`` before the update,
``label/<i>``, and nothing is played ahead of the first update from rewards but in its own turn.

What the trainer's steps tell in their results, beside what they tell people: ``begin`` ``{"updates": k}``, how many updates
have their checkpoint already, so that a retry of the job goes on with iteration ``k``; ``update`` ``{"stop": reason}`` when a
gate wants no further update. A cap does the same from outside. Then the model is tried as it is, the report is made, and
``keep`` makes artifacts of the last adapter and of the best, by version; what it tells goes into the summary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.models import JobState, Queue, StepState
from app.plots.base import Ending, EpisodeId, JobView, StepPlan, StepView
from app.plots.curriculum import STARTS, begun_at, groups_of, pool_of, starts_step
from app.plots.play import PLAY, apart, chunks, play_step
from app.specs.rl import BLANK, EVALUATION, TRAIN, RlSpec

BEGIN, LABEL, UPDATE, SCORE, REPORT, KEEP = "begin", "label", "update", "rl_score", "rl_report", "keep"
"""Kinds of the steps that play nothing."""
UPDATES: Final = "updates"
"""In the result of ``begin``: how many updates were done before."""
STOP: Final = "stop"
"""In the result of an update: why there should be no other."""


def play_of(spec: RlSpec, iteration: int, pool: Sequence[Any] = ()) -> list[EpisodeId]:
    """The episodes that an iteration learns from, group by group; ``pool``: the episodes that groups may begin in."""
    members = range(spec.training.group_size)
    return [(iteration, group.seed, member) for group in groups_of(spec, iteration, pool) for member in members]


def evaluation_of(spec: RlSpec, iteration: int) -> list[EpisodeId]:
    """The episodes in which the model is tried after so many updates."""
    members = range(spec.evaluation.episodes_per_seed)
    return [(iteration, seed, member) for seed in spec.evaluation.played for member in members]


def blank_of(spec: RlSpec, iteration: int) -> list[EpisodeId]:
    """The episodes in which it is tried with black pictures: members beside those of the evaluation, of the same seeds."""
    each = spec.evaluation.episodes_per_seed
    return [(iteration, seed, each + member) for _, seed, member in evaluation_of(spec, iteration)]


class RlPlot:
    """The plot of an rl job."""

    def most_at_once(self, spec: dict[str, Any]) -> int | None:
        return RlSpec.model_validate(spec).most_at_once

    def begin(self, job: JobView) -> list[StepPlan]:
        return [StepPlan(key="begin", kind=BEGIN, queue=Queue.TRAINER), *starts_step(RlSpec.model_validate(job.spec))]

    def advance(self, job: JobView, steps: Sequence[StepView]) -> list[StepPlan] | Ending:
        return _Course(job, steps).next()


class _Course:
    """How far an attempt has come."""

    def __init__(self, job: JobView, steps: Sequence[StepView]) -> None:
        self._job, self._steps = job, steps
        self._spec = RlSpec.model_validate(job.spec)
        self._done = job.done_episodes()
        self._pool = pool_of(steps)
        self._asked = {step.key.rpartition("/")[0] for step in steps if step.kind in (PLAY, LABEL)}

    def next(self) -> list[StepPlan] | Ending:
        """What comes next."""
        broken = next((step for step in self._steps if step.kind in _BROKEN and step.state != StepState.SUCCEEDED), None)
        if broken is not None:
            return Ending(state=JobState.FAILED, reason=f"{_BROKEN[broken.kind]}: {broken.reason}")
        last = self._steps[-1]
        if last.kind == KEEP:
            return self._ending(self._steps[-2], last)
        if last.kind == REPORT:
            return [self._keep(last)]
        if again := apart(self._steps):
            return again
        return self._learn() if self._stopped is None and self._updates < self._spec.end else self._close()

    def _learn(self) -> list[StepPlan] | Ending:
        """The play and the evaluation that the next update waits for, or the update."""
        at = self._updates
        if wanted := [*self._play(at), *self._evaluation(at)]:
            return wanted
        played, asked = self._count(play_of(self._spec, at, self._pool)), self._spec.rollout.episodes
        if played < (least := self._least(asked)):
            told = f"{played} of {asked} episodes of iteration {at} were played, and an update needs {least}"
            return Ending(state=JobState.FAILED, reason=f"{told}: {self._why()}")
        if asking := self._labels(at):
            return asking
        update = StepPlan(key=f"update/{at}", kind=UPDATE, queue=Queue.TRAINER, payload={"iteration": at})
        until = self._spec.dagger.rounds if at < self._spec.dagger.rounds else self._spec.end
        ahead = range(at + 1, min(at + 1 + self._spec.training.staleness, until))
        return [update, *self._score(at), *(plan for iteration in ahead for plan in self._play(iteration))]

    def _labels(self, at: int) -> list[StepPlan]:
        """Steps that ask the expert about the play of a round, unless this attempt has asked."""
        key = f"label/{at}"
        if at >= self._spec.dagger.rounds or key in self._asked:
            return []
        tried = frozenset(self._spec.evaluation.played)
        played = sorted(episode for episode in self._done if episode[0] == at and episode[1] not in tried)
        parts = chunks(played, self._spec.episodes_a_step)
        return [
            StepPlan(
                key=f"{key}/{k}",
                kind=LABEL,
                queue=Queue.ROLLOUT,
                payload={"iteration": at, "part": k, "episodes": [list(episode) for episode in part]},
                total=len(part),
            )
            for k, part in enumerate(parts)
        ]

    def _score(self, at: int) -> list[StepPlan]:
        """The score of what the model came to before an update, where it was tried."""
        if not self._spec.evaluated(at):
            return []
        return [StepPlan(key=f"score/{at}", kind=SCORE, queue=Queue.DATA, payload={"iteration": at})]

    def _close(self) -> list[StepPlan] | Ending:
        """The last evaluation, then the report."""
        payload = {"iterations": self._updates, "stopped": self._stopped}
        return self._evaluation(self._updates) or [StepPlan(key="report", kind=REPORT, queue=Queue.DATA, payload=payload)]

    def _keep(self, report: StepView) -> StepPlan:
        """Artifacts of the last version, and of the best."""
        best = (report.result or {}).get("best") or {}
        payload = {"last": report.payload["iterations"] + 1, "best": best.get("version")}
        return StepPlan(key="keep", kind=KEEP, queue=Queue.TRAINER, payload=payload)

    def _ending(self, report: StepView, keep: StepView) -> Ending:
        summary, stopped = {**(report.result or {}), **(keep.result or {})}, report.payload["stopped"]
        at, spec = report.payload["iterations"], self._spec
        if stopped is not None and self._gate is not None:
            reason = f"stopped after {at - spec.begun} of {spec.iterations} iterations: {stopped}"
            return Ending(state=JobState.FAILED, reason=reason, summary=summary)
        last = evaluation_of(spec, at)
        tried = self._count(last)
        if tried < self._least(len(last)):
            reason = f"{tried} of {len(last)} episodes of the last evaluation were played: {self._why()}"
            return Ending(state=JobState.FAILED, reason=reason, summary=summary)
        return Ending(state=JobState.SUCCEEDED, summary=summary)

    # -- where it stands --------------------------------------------------------------------------------------------------

    @property
    def _updates(self) -> int:
        """Updates that are done, with those of the job that it goes on from."""
        before = next((step.result or {} for step in self._steps if step.kind == BEGIN), {}).get(UPDATES, self._spec.begun)
        return int(before) + sum(step.kind == UPDATE for step in self._steps)

    @property
    def _gate(self) -> str | None:
        """Why a gate wants no further update."""
        last = next((step.result or {} for step in reversed(self._steps) if step.kind == UPDATE), {})
        reason = last.get(STOP)
        return str(reason) if reason else None

    @property
    def _stopped(self) -> str | None:
        """Why there is no further update though there should be more."""
        if self._updates >= self._spec.end:
            return None
        if self._gate is not None:
            return self._gate
        hours, cap = self._job.seconds() / 3600, self._spec.caps.hours
        if cap is None or hours < cap:
            return None
        return f"{hours:.2f} hours are past the cap of {cap:g}"

    def _least(self, asked: int) -> int:
        """Of so many episodes, how many are enough."""
        return math.ceil(self._spec.rollout.min_share * asked - 1e-9)  # 0.7 * 10 is a little more than 7

    def _count(self, episodes: Sequence[EpisodeId]) -> int:
        return sum(episode in self._done for episode in episodes)

    def _why(self) -> str:
        """Why episodes are missing, as far as steps tell."""
        told = (step.reason for step in reversed(self._steps) if step.kind == PLAY and step.state == StepState.FAILED)
        return next(filter(None, told), "`synthq traces list --state failed` tells why")

    # -- steps that play --------------------------------------------------------------------------------------------------

    def _play(self, iteration: int) -> list[StepPlan]:
        groups = groups_of(self._spec, iteration, self._pool)
        starts = {group.seed: group.start for group in groups if group.start}
        return self._missing(f"play/{iteration}", play_of(self._spec, iteration, self._pool), TRAIN, starts)

    def _evaluation(self, iteration: int) -> list[StepPlan]:
        over = self._stopped is not None or iteration == self._spec.end
        if not over and not self._spec.evaluated(iteration):
            return []
        seen = self._missing(f"eval/{iteration}", evaluation_of(self._spec, iteration), EVALUATION)
        every = self._spec.evaluation.blank_frames_every_n_iters
        if not (self._spec.blanked(iteration) or (over and every)):
            return seen
        return [*seen, *self._missing(f"blank/{iteration}", blank_of(self._spec, iteration), BLANK)]

    def _missing(
        self, key: str, episodes: Sequence[EpisodeId], purpose: str, starts: Mapping[int, tuple[str, int]] | None = None
    ) -> list[StepPlan]:
        """Steps for what was never played to its end, unless this attempt has asked for it. ``starts``: by seed."""
        if key in self._asked:
            return []
        missing = [episode for episode in episodes if episode not in self._done]
        parts = chunks(missing, self._spec.episodes_a_step)
        return [
            play_step(f"{key}/{k}", part, self._spec.label, purpose=purpose, **begun_at(part, starts or {}))
            for k, part in enumerate(parts)
        ]


_BROKEN: Final = {
    BEGIN: "the training could not begin",
    LABEL: "the expert could not be asked",
    STARTS: "no group can begin where [curriculum] says",
    UPDATE: "an update could not be made",
    REPORT: "the report could not be made",
    KEEP: "the adapter could not be kept",
}
