"""The reconciler: what must happen when a worker, a writer or a message is lost, seen from the rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from core import kit
from core.test_claims import together

from app import claims, db, lifecycle, plots, reconciler
from app.errors import LostStep
from app.models import Job, Queue
from app.plots.base import Ending, JobView, StepPlan, StepView
from app.settings import get_settings


def claimed(owner: str = "w", hint: str | None = None) -> claims.Claim:
    claim = claims.claim(Queue.DATA, owner=owner, hint=hint)
    assert claim is not None
    return claim


def finish(claim: claims.Claim, result: dict[str, Any] | None = None) -> None:
    with db.writing() as session:
        lifecycle.succeed_step(session, claim.step_id, claim.fence, result or {})


def lease_runs_out(claim: claims.Claim) -> None:
    kit.write("UPDATE step SET lease_until = 1 WHERE id = :id", id=claim.step_id)


def verb(what: Any, job: Job) -> None:
    with db.writing() as session:
        what(session, job)


# -- leases ----------------------------------------------------------------------------------------------------------------


def test_an_expired_lease_brings_the_step_back_with_one_attempt_more(store: str) -> None:
    job = kit.submit_noop()
    first = claimed("a")
    assert reconciler.sweep().released == 0
    lease_runs_out(first)
    assert reconciler.sweep().released == 1
    row = kit.step(first.step_id)
    assert (row.state, row.reason, row.lease_until) == ("queued", "worker_lost: its lease ran out", None)
    second = claimed("b")
    assert (second.step_id, second.attempt, second.fence) == (first.step_id, 2, first.fence + 1)
    with pytest.raises(LostStep):
        finish(first)
    finish(second)
    assert kit.job(job.id).state == "succeeded"
    assert [e.type for e in kit.job_events(job.id)] == ["job.created", "job.started", "step.requeued", "job.succeeded"]


def test_each_further_loss_waits_twice_as_long(store: str) -> None:
    with kit.use_settings(SYNTHQ_MAX_ATTEMPTS="4", SYNTHQ_BACKOFF_S="2"):
        kit.submit_noop()
        waits = []
        for _ in range(3):
            claim = claimed()
            lease_runs_out(claim)
            with db.reading() as session:
                at = db.clock(session)
            reconciler.sweep()
            waits.append(round(kit.step(claim.step_id).available_at - at))
            kit.write("UPDATE step SET available_at = 0")
        assert waits == [0, 4, 8]  # the first loss is most likely not the step's fault


def test_a_step_that_loses_every_worker_fails_with_the_reason(store: str) -> None:
    with kit.use_settings(SYNTHQ_BACKOFF_S="0"):
        job = kit.submit_noop()
        for _ in range(get_settings().max_attempts):
            lease_runs_out(claimed())
            reconciler.sweep()
        assert claims.claim(Queue.DATA, owner="w") is None
    ended = kit.job(job.id)
    assert (ended.state, ended.reason) == ("failed", "worker_lost: its lease ran out")


def test_a_lease_that_is_renewed_does_not_run_out(store: str) -> None:
    kit.submit_noop()
    claim = claimed()
    lease_runs_out(claim)
    claims.renew(claim)
    assert reconciler.sweep().released == 0
    finish(claim)


def test_a_dead_pool_process_gives_back_its_own_step_alone(store: str) -> None:
    kit.submit_noop(2)
    dead, alive = claimed("w", "hint-1"), claimed("w", "hint-2")
    assert claims.release_hint("hint-1", "its process died") == 1
    assert kit.step(dead.step_id).state == "queued"
    finish(alive)
    assert claims.release_hint("hint-1", "its process died") == 0


def test_a_dead_worker_gives_back_all_its_steps(store: str) -> None:
    kit.submit_noop(3)
    mine = [claimed("gone"), claimed("gone")]
    other = claimed("stays")
    assert claims.release_owner("gone", "the worker is gone") == 2
    assert {kit.step(claim.step_id).state for claim in mine} == {"queued"}
    finish(other)


# -- writers that died -----------------------------------------------------------------------------------------------------


def test_a_job_whose_last_writer_died_before_it_went_on_goes_on(store: str) -> None:
    job = kit.submit_noop(2)
    finish(claimed())
    last = claimed()
    kit.write("UPDATE step SET state = 'succeeded', lease_until = NULL, finished_at = 1 WHERE id = :id", id=last.step_id)
    assert kit.job(job.id).state == "running"
    assert reconciler.sweep().advanced == 1
    assert kit.job(job.id).state == "succeeded"
    assert reconciler.sweep() == reconciler.Swept(released=0, started=0, advanced=0, cancelled=0)


def test_an_eval_whose_last_player_died_gets_its_report_once(store: str) -> None:
    job = kit.submit_eval("0-1")
    for _ in range(2):
        claim = claims.claim(Queue.ROLLOUT, owner="w")
        assert claim is not None
        kit.write("UPDATE step SET state = 'succeeded', lease_until = NULL, finished_at = 1 WHERE id = :id", id=claim.step_id)
    together(lambda i: reconciler.sweep() and None, 3)
    assert [step.kind for step in kit.steps(job.id)] == ["play", "play", "report"]


def test_sweeps_at_the_same_time_do_everything_once(store: str) -> None:
    with kit.use_settings(SYNTHQ_BACKOFF_S="0", SYNTHQ_CANCEL_GRACE_S="0"):
        lost, cancelled = kit.submit_noop(6), kit.submit_noop(3)
        for _ in range(9):
            claimed()
        waits = kit.submit_noop(after=[{"job": cancelled.id, "on": "any"}])
        verb(lifecycle.cancel, cancelled)
        kit.write("UPDATE step SET lease_until = 1 WHERE job_id = :id", id=lost.id)
        kit.write("UPDATE job SET cancel_requested_at = 1 WHERE id = :id", id=cancelled.id)
        together(lambda i: reconciler.sweep() and None, 4)
        reconciler.sweep()
    assert [(s.state, s.attempt, s.fence) for s in kit.steps(lost.id)] == [("queued", 1, 1)] * 6
    assert [event.type for event in kit.job_events(lost.id)].count("step.requeued") == 6
    assert kit.job(cancelled.id).state == "cancelled"
    assert [event.type for event in kit.job_events(cancelled.id)].count("job.cancelled") == 1
    assert len(kit.steps(waits.id)) == 1


# -- cancels ---------------------------------------------------------------------------------------------------------------


def test_a_step_that_does_not_stop_after_a_cancel_is_taken_away(store: str) -> None:
    job = kit.submit_noop(3)
    claim = claimed()
    verb(lifecycle.cancel, job)
    assert [s.state for s in kit.steps(job.id)] == ["running", "cancelled", "cancelled"]
    assert reconciler.sweep().cancelled == 0
    kit.write("UPDATE job SET cancel_requested_at = cancel_requested_at - 31")
    assert reconciler.sweep().cancelled == 1
    assert kit.job(job.id).state == "cancelled"
    with pytest.raises(LostStep):
        finish(claim)


def test_a_cancel_wins_over_a_result_that_comes_later(store: str) -> None:
    job = kit.submit_noop(2)
    claim = claimed()
    verb(lifecycle.cancel, job)
    finish(claim)
    assert kit.job(job.id).state == "cancelled"


# -- jobs that wait for jobs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "how", "state", "reason"),
    [
        ("ok", "succeeded", "queued", None),
        ("any", "succeeded", "queued", None),
        ("any", "failed", "queued", None),
        ("any", "cancelled", "queued", None),
        ("any", "removed", "queued", None),
        ("ok", "failed", "failed", "that job is failed"),
        ("ok", "cancelled", "failed", "that job is cancelled"),
        ("ok", "removed", "failed", "that job is removed"),
    ],
)
def test_a_job_that_waits_for_another_follows_its_end(
    sqlite_store: str, on: str, how: str, state: str, reason: str | None
) -> None:
    first = kit.submit_noop()
    waits = kit.submit_noop(after=[{"job": first.id, "on": on}])
    reconciler.sweep()
    assert (kit.job(waits.id).state, kit.steps(waits.id)) == ("queued", [])
    claim = claimed()
    if how in ("cancelled", "removed"):
        verb(lifecycle.cancel, first)
    with db.writing() as session:
        if how == "failed":
            lifecycle.fail_step(session, claim.step_id, claim.fence, "no", retryable=False)
        elif how == "succeeded":
            lifecycle.succeed_step(session, claim.step_id, claim.fence, {})
        else:
            lifecycle.cancel_step(session, claim.step_id, claim.fence)
    if how == "removed":
        verb(lifecycle.remove, first)
    reconciler.sweep()
    ended = kit.job(waits.id)
    assert ended.state == state
    assert len(kit.steps(waits.id)) == (1 if reason is None else 0)
    if reason:
        assert ended.reason == f"it was to run after {first.id} succeeded, but {reason}"


def test_a_chain_of_jobs_runs_to_its_end(store: str) -> None:
    chain = [kit.submit_noop()]
    for _ in range(3):
        chain.append(kit.submit_noop(after=[{"job": chain[-1].id, "on": "ok"}]))
    for job in chain:
        claim = claimed()
        assert claim.job_id == job.id
        assert claims.claim(Queue.DATA, owner="w") is None
        finish(claim)
        reconciler.sweep()
    assert [kit.job(job.id).state for job in chain] == ["succeeded"] * 4


# -- one bad job -----------------------------------------------------------------------------------------------------------


class Confused:
    """A plot with a fault: it cannot say what comes next."""

    def most_at_once(self, spec: dict[str, Any]) -> int | None:
        return None

    def begin(self, job: JobView) -> list[StepPlan]:
        if job.spec.get("begin"):
            raise KeyError("begin")
        return [StepPlan(key="x", kind="noop", queue=Queue.DATA)]

    def advance(self, job: JobView, steps: Sequence[StepView]) -> list[StepPlan] | Ending:
        raise KeyError("episodes")


def test_a_job_whose_plot_has_a_fault_fails_with_it_and_holds_up_nobody(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plots.PLOTS, "confused", Confused())
    first = kit.submit_noop()
    bad = kit.submit("confused", {})
    worse = kit.submit("confused", {"begin": True}, after=[{"job": first.id, "on": "ok"}])
    waits = kit.submit_noop(after=[{"job": first.id, "on": "ok"}])
    for _ in range(2):
        finish(claimed())
    reconciler.sweep()
    assert (kit.job(bad.id).state, kit.job(bad.id).reason) == ("failed", "its plot cannot go on: KeyError: 'episodes'")
    assert (kit.job(worse.id).state, kit.job(worse.id).reason) == ("failed", "its plot cannot go on: KeyError: 'begin'")
    assert len(kit.steps(waits.id)) == 1


def test_a_job_of_a_kind_that_this_version_does_not_know_fails_with_it(store: str) -> None:
    first = kit.submit_noop()
    foreign, waits = (kit.submit_noop(after=[{"job": first.id, "on": "ok"}]) for _ in range(2))
    kit.write("UPDATE job SET kind = 'dream' WHERE id = :id", id=foreign.id)
    finish(claimed())
    reconciler.sweep()
    assert kit.job(foreign.id).state == "failed"
    assert str(kit.job(foreign.id).reason).startswith("its plot cannot go on: no job kind named 'dream'")
    assert len(kit.steps(waits.id)) == 1


def test_a_job_that_asks_for_no_steps_fails_and_does_not_wait_for_ever(store: str) -> None:
    job = kit.submit_noop(0)
    assert (job.state, job.reason) == ("failed", "its plot cannot go on: it asked for no steps")


@pytest.mark.parametrize("work", ["start_waiting", "advance_stuck", "release_expired", "cancel_overdue"])
def test_a_job_that_is_removed_in_the_middle_of_a_sweep_is_passed_over(
    sqlite_store: str, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """Between the look at the rows and the lock of the job, a user may have cancelled and removed it."""
    first = kit.submit_noop()
    claim = claimed()
    if work == "start_waiting":
        kit.submit_noop(after=[{"job": first.id, "on": "ok"}])
    elif work == "advance_stuck":
        kit.write("UPDATE step SET state = 'succeeded'")
    elif work == "release_expired":
        lease_runs_out(claim)
    else:
        kit.write("UPDATE job SET cancel_requested_at = 1")
    real = lifecycle.lock_job
    locked = []

    def removed_first(session: Any, job_id: str) -> Job:
        session.connection().exec_driver_sql("DELETE FROM job WHERE id = ?", (job_id,))
        locked.append(job_id)
        return real(session, job_id)

    monkeypatch.setattr(lifecycle, "lock_job", removed_first)
    monkeypatch.setattr(reconciler, "lock_job", removed_first)
    reconciler.sweep()
    assert locked
