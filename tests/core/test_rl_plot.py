"""The plot of an rl job: what goes out in which order, what is enough, what a retry leaves out, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from core.kit import small_rl

from app import specs
from app.models import JobState, StepState
from app.plots import PLOTS
from app.plots.base import Ending, EpisodeId, JobView, StepPlan, StepView
from app.specs import RlSpec

PLOT = PLOTS["rl"]
Outcome = tuple[StepState, str | None, dict[str, Any] | None]
WELL: Outcome = (StepState.SUCCEEDED, None, {})


def spec_of(**tables: Any) -> RlSpec:
    """Four iterations, tried before the first, after two and at the end."""
    return small_rl({"training": {"iterations": 4}, "evaluation": {"every_n_iters": 2}}, tables)


@dataclass
class Job:
    """A job whose steps do what ``outcome`` says; what a play step plays is done unless it failed."""

    spec: RlSpec
    outcome: Callable[[StepPlan], Outcome] = lambda plan: WELL
    lost: frozenset[EpisodeId] = frozenset()
    """Episodes that fail by themselves."""
    seconds: float = 0.0
    done: set[EpisodeId] = field(default_factory=set)
    phases: list[list[StepPlan]] = field(default_factory=list)

    def run(self) -> Ending:
        """An attempt from its beginning to its end."""
        resolved = specs.resolved(self.spec)
        view = JobView(spec=resolved, done_episodes=lambda: frozenset(self.done), seconds=lambda: self.seconds)
        self.phases, steps = [], list[StepView]()
        following: list[StepPlan] | Ending = PLOT.begin(view)
        while not isinstance(following, Ending):
            assert following, "a plot asks for steps or ends"
            self.phases.append(following)
            steps += [self._do(plan) for plan in following]
            assert len({step.key for step in steps}) == len(steps), "a key means one piece of work"
            following = PLOT.advance(view, steps)
            assert len(self.phases) < 100
        return following

    def _do(self, plan: StepPlan) -> StepView:
        state, reason, result = self.outcome(plan)
        if plan.kind == "play" and state == StepState.SUCCEEDED:
            self.done |= {key for key in map(tuple, plan.payload["episodes"]) if key not in self.lost}
        return StepView(key=plan.key, kind=plan.kind, state=state, reason=reason, payload=plan.payload, result=result)

    @property
    def keys(self) -> list[str]:
        """The keys of each phase, the parts of a play as one."""
        named = [[p.key.rpartition("/")[0] if p.kind == "play" else p.key for p in phase] for phase in self.phases]
        return [" ".join(dict.fromkeys(phase)) for phase in named]

    def plan(self, key: str) -> StepPlan:
        return next(plan for phase in self.phases for plan in phase if plan.key == key)


def fails(*keys: str, reason: str = "it broke") -> Callable[[StepPlan], Outcome]:
    """Steps with these keys fail."""
    return lambda plan: (StepState.FAILED, reason, None) if plan.key in keys else WELL


def test_it_plays_and_updates_in_turn_and_is_tried_when_due_and_at_the_end() -> None:
    job = Job(spec_of())
    assert job.run() == Ending(state=JobState.SUCCEEDED, summary={})
    assert job.keys == [
        "begin",
        "play/0 eval/0",
        "update/0 score/0",
        "play/1",
        "update/1",
        "play/2 eval/2",
        "update/2 score/2",
        "play/3",
        "update/3",
        "eval/4",
        "report",
        "keep",
    ]


@pytest.mark.parametrize(("staleness", "ahead"), [(1, [[0], [1], [2], [3]]), (2, [[0], [1, 2], [3]])])
def test_with_staleness_it_plays_ahead_beside_an_update_and_never_further(staleness: int, ahead: list[list[int]]) -> None:
    job = Job(spec_of(training={"staleness": staleness}))
    assert job.run().state == JobState.SUCCEEDED
    plays = [[int(k.split("/")[1]) for k in phase.split() if k.startswith("play")] for phase in job.keys]
    assert [phase for phase in plays if phase] == ahead
    for phase in job.keys:
        words = phase.split()
        updates = [int(word.split("/")[1]) for word in words if word.startswith("update")]
        played = [int(word.split("/")[1]) for word in words if word.startswith("play")]
        assert not updates or all(update < play <= update + staleness for update in updates for play in played)
        assert not (updates and any(word.startswith("eval") for word in words)), "nobody knows which version would be tried"


def test_every_group_is_a_seed_of_its_own_and_no_seed_comes_twice() -> None:
    job = Job(spec_of())
    job.run()
    played = [
        tuple(key) for phase in job.phases for plan in phase if plan.key.startswith("play") for key in plan.payload["episodes"]
    ]
    assert played[:4] == [(0, 10_000, 0), (0, 10_000, 1), (0, 10_001, 0), (0, 10_001, 1)]
    assert len(set(played)) == len(played) == 16
    assert len({seed for _, seed, _ in played}) == 8


def test_play_steps_say_who_plays_and_what_for() -> None:
    job = Job(spec_of())
    job.run()
    assert job.plan("play/0/0").payload == {
        "episodes": [[0, 10_000, 0], [0, 10_000, 1]],
        "purpose": "train",
        "policy": "model:/m",
    }
    assert job.plan("eval/4/0").payload["purpose"] == "evaluation"
    assert job.plan("eval/4/0").payload["episodes"] == [[4, 0, 0], [4, 1, 0]]
    assert job.plan("update/3").payload == {"iteration": 3}


def test_a_play_step_that_fails_is_played_apart_once_and_the_update_goes_on_with_what_is_enough() -> None:
    job = Job(spec_of(), fails("play/1/0", "play/1/0/1"))
    assert job.run().state == JobState.SUCCEEDED
    assert [plan.key for plan in job.phases[4]] == ["play/1/0/0", "play/1/0/1"]
    assert [plan.key for plan in job.phases[5]] == ["update/1"]
    assert (1, 10_002, 1) not in job.done


def test_too_little_play_ends_the_job_with_the_reason() -> None:
    job = Job(spec_of(), fails("play/1/0", "play/1/0/0", "play/1/0/1", reason="no engine"))
    ending = job.run()
    assert ending.state == JobState.FAILED
    assert ending.reason == "2 of 4 episodes of iteration 1 were played, and an update needs 3: no engine"


def test_the_share_that_is_enough_is_counted_exactly() -> None:
    spec = spec_of(
        rollout={"episodes_per_batch": 10, "min_share": 0.7, "max_concurrent_rollouts": 10, "episodes_per_step": 10},
        training={"group_size": 10},
    )
    lost = frozenset((1, 10_001, member) for member in range(3))
    assert Job(spec, lost=lost).run().state == JobState.SUCCEEDED
    ending = Job(spec, lost=lost | {(1, 10_001, 3)}).run()
    assert ending.reason is not None
    assert ending.reason.startswith("6 of 10 episodes of iteration 1 were played, and an update needs 7")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("begin", "the training could not begin: it broke"),
        ("update/2", "an update could not be made: it broke"),
        ("report", "the report could not be made: it broke"),
        ("keep", "the adapter could not be kept: it broke"),
    ],
)
def test_a_step_that_fails_for_good_ends_the_job(key: str, said: str) -> None:
    assert Job(spec_of(), fails(key)).run() == Ending(state=JobState.FAILED, reason=said)


def test_a_score_that_cannot_be_made_ends_nothing() -> None:
    assert Job(spec_of(), fails("score/0")).run().state == JobState.SUCCEEDED


def test_a_retry_goes_on_with_what_is_missing() -> None:
    job = Job(spec_of(), fails("update/2"))
    assert job.run().state == JobState.FAILED
    job.done.discard((2, 10_005, 1))
    job.done.discard((0, 10_000, 0))  # of an iteration whose update is done: nobody learns from it any more
    job.outcome = lambda plan: (StepState.SUCCEEDED, None, {"updates": 2} if plan.key == "begin" else {})
    assert job.run().state == JobState.SUCCEEDED
    assert job.keys == ["begin", "play/2", "update/2 score/2", "play/3", "update/3", "eval/4", "report", "keep"]
    assert job.plan("play/2/0").payload["episodes"] == [[2, 10_005, 1]]


def test_a_retry_of_which_only_the_end_is_missing_makes_the_end() -> None:
    job = Job(spec_of(), fails("report"))
    job.run()
    job.outcome = lambda plan: (StepState.SUCCEEDED, None, {"updates": 4} if plan.key == "begin" else {})
    assert job.run().state == JobState.SUCCEEDED
    assert job.keys == ["begin", "report", "keep"]


def test_a_gate_stops_the_training_and_the_model_is_tried_as_it_is() -> None:
    def gate(plan: StepPlan) -> Outcome:
        return (StepState.SUCCEEDED, None, {"stop": "entropy 0.01 is below 0.1"}) if plan.key == "update/0" else WELL

    job = Job(spec_of(), gate)
    ending = job.run()
    assert job.keys[3:] == ["eval/1", "report", "keep"]
    assert ending.state == JobState.FAILED
    assert ending.reason == "stopped after 1 of 4 iterations: entropy 0.01 is below 0.1"
    assert ending.summary == {}


def test_a_gate_after_the_last_update_stops_nothing() -> None:
    def gate(plan: StepPlan) -> Outcome:
        return (StepState.SUCCEEDED, None, {"stop": "too far"}) if plan.key == "update/3" else WELL

    assert Job(spec_of(), gate).run().state == JobState.SUCCEEDED


def test_a_cap_ends_the_training_well() -> None:
    job = Job(spec_of(caps={"max_usd": 3.0, "usd_per_hour": 2.0}), seconds=5400)
    assert job.run().state == JobState.SUCCEEDED
    assert job.keys == ["begin", "eval/0", "report", "keep"]
    assert job.plan("report").payload == {"iterations": 0, "stopped": "1.50 hours are past the cap of 1.5"}


def test_the_last_evaluation_must_have_been_played() -> None:
    ending = Job(spec_of(), lost=frozenset({(4, 0, 0)})).run()
    assert ending.state == JobState.FAILED
    assert ending.reason == "1 of 2 episodes of the last evaluation were played: `synthq traces list --state failed` tells why"


def test_what_is_kept_is_the_last_version_and_the_best() -> None:
    def outcome(plan: StepPlan) -> Outcome:
        told = {"report": {"best": {"version": 3}, "curve": []}, "keep": {"artifact": "art_1"}}
        return (StepState.SUCCEEDED, None, told.get(plan.key, {}))

    job = Job(spec_of(), outcome)
    assert job.run().summary == {"best": {"version": 3}, "curve": [], "artifact": "art_1"}
    assert job.plan("keep").payload == {"last": 5, "best": 3}


@pytest.mark.parametrize(("staleness", "size", "most"), [(0, 2, 4), (0, 4, 2), (1, 2, 4), (1, 8, 2)])
def test_no_more_episodes_are_under_way_at_once_than_the_spec_allows(staleness: int, size: int, most: int) -> None:
    rollout = {"max_concurrent_rollouts": 8, "episodes_per_step": size, "episodes_per_batch": 16}
    spec = spec_of(rollout=rollout, training={"staleness": staleness})
    assert PLOT.most_at_once(specs.resolved(spec)) == most
    assert spec.episodes_a_step * most <= 8


def test_where_it_is_due_and_at_the_end_the_model_is_tried_with_black_pictures_too() -> None:
    job = Job(spec_of(evaluation={"blank_frames_every_n_iters": 4, "instances": 4}))
    assert job.run().state == JobState.SUCCEEDED
    assert [phase for phase in job.keys if "eval" in phase] == ["play/0 eval/0 blank/0", "play/2 eval/2", "eval/4 blank/4"]
    asked = [job.plan(f"{key}/4/{part}").payload for key in ("eval", "blank") for part in (0, 1)]
    assert [payload["purpose"] for payload in asked] == ["evaluation", "evaluation", "blank", "blank"]
    members = {payload["purpose"]: sorted(member for _, _, member in payload["episodes"]) for payload in asked}
    assert members == {"evaluation": [0, 1], "blank": [2, 3]}, "no episode is another one"


def test_a_job_that_ends_early_is_tried_blind_where_it_stands() -> None:
    job = Job(spec_of(evaluation={"blank_frames_every_n_iters": 4}, caps={"max_hours": 1.0}), seconds=7200.0)
    assert job.run().state == JobState.SUCCEEDED
    assert job.keys == ["begin", "eval/0 blank/0", "report", "keep"]
    never = Job(spec_of(caps={"max_hours": 1.0}), seconds=7200.0)
    never.run()
    assert never.keys == ["begin", "eval/0", "report", "keep"]
