"""The plot of an rl job with rounds of DAgger: the expert is asked between play and update, of training's episodes alone."""

from __future__ import annotations

import pytest
from core.test_rl_plot import WELL, Job, fails, spec_of

from app.models import JobState
from app.plots.base import Ending


def test_in_a_round_the_expert_is_asked_between_play_and_update() -> None:
    job = Job(spec_of(dagger={"rounds": 2}))
    assert job.run() == Ending(state=JobState.SUCCEEDED, summary={})
    assert job.keys == [
        "begin",
        "play/0 eval/0",
        "label/0/0 label/0/1",
        "update/0 score/0",
        "play/1",
        "label/1/0 label/1/1",
        "update/1",
        "play/2 eval/2",
        "update/2 score/2",
        "play/3",
        "update/3",
        "eval/4",
        "report",
        "keep",
    ]


def test_the_expert_is_asked_about_what_was_played_of_training_and_nothing_else() -> None:
    job = Job(spec_of(dagger={"rounds": 1}), lost=frozenset({(0, 10_001, 1)}))
    assert job.run().state == JobState.SUCCEEDED
    first, second = job.plan("label/0/0"), job.plan("label/0/1")
    assert first.payload == {"iteration": 0, "part": 0, "episodes": [[0, 10_000, 0], [0, 10_000, 1]]}
    assert second.payload == {"iteration": 0, "part": 1, "episodes": [[0, 10_001, 0]]}, "one was not played to its end"
    assert (first.queue, first.total, second.total) == ("rollout", 2, 1)
    tried = set(job.spec.evaluation.played)
    asked = [seed for plan in (first, second) for _, seed, _ in plan.payload["episodes"]]
    assert not tried & set(asked), "no seed of an evaluation"


def test_with_staleness_nothing_is_played_ahead_of_the_first_update_from_rewards() -> None:
    job = Job(spec_of(training={"staleness": 1}, dagger={"rounds": 2}))
    assert job.run().state == JobState.SUCCEEDED
    assert job.keys[:9] == [
        "begin",
        "play/0 eval/0",
        "label/0/0 label/0/1",
        "update/0 score/0 play/1",
        "label/1/0 label/1/1",
        "update/1",
        "play/2 eval/2",
        "update/2 score/2 play/3",
        "update/3",
    ]


def test_a_retry_asks_again_about_the_round_that_it_goes_on_with_and_about_no_other() -> None:
    job = Job(spec_of(dagger={"rounds": 2}), fails("update/1"))
    assert job.run().state == JobState.FAILED
    job.outcome = lambda plan: (*WELL[:2], {"updates": 1}) if plan.key == "begin" else WELL
    assert job.run().state == JobState.SUCCEEDED
    assert job.keys[:3] == ["begin", "label/1/0 label/1/1", "update/1"]


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_where_the_expert_cannot_be_asked_the_job_says_so(rounds: int) -> None:
    job = Job(spec_of(dagger={"rounds": rounds}), fails("label/0/1", reason="turn 3 has another frame"))
    assert job.run() == Ending(state=JobState.FAILED, reason="the expert could not be asked: turn 3 has another frame")


def test_a_job_may_be_rounds_alone() -> None:
    job = Job(spec_of(dagger={"rounds": 4}))
    assert job.run().state == JobState.SUCCEEDED
    assert sum(key.startswith("label") for key in job.keys) == 4
