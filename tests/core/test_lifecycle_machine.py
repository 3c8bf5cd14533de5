"""A machine that does anything in any order to jobs and steps, and a small model beside it that says what must come of it.

The model knows nothing of SQL: for each step its state, its fence and its attempts, for each job its state and what it waits
for. What a worker does is done here by hand; the claims, the lifecycle and the reconciler are the real ones.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from core import kit
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule, run_state_machine_as_test
from sqlalchemy import select
from sqlmodel import SQLModel, col

from app import claims, db, lifecycle, reconciler
from app.errors import AlreadyEnded, Conflict, JobNotFound, LostStep
from app.models import ENDED, Episode, Job, JobEvent, Queue, Step, new_id
from app.store import events

pytestmark = pytest.mark.timeout(1800)  # thousands of transactions: half a minute alone, many times that beside others

QUEUES = (Queue.ROLLOUT, Queue.DATA)
MAX_ATTEMPTS = 2


@dataclass
class StepModel:
    """What the model knows of a step."""

    state: str = "queued"
    fence: int = 0
    attempt: int = 0


@dataclass
class JobModel:
    """What the model knows of a job."""

    kind: str
    after: list[dict[str, str]]
    state: str = "queued"
    attempt: int = 1
    cancelled: bool = False
    limit: int | None = None
    steps: dict[str, StepModel] = field(default_factory=dict)
    done_before: set[tuple[int, int, int]] = field(default_factory=set)
    """Episodes that were done when the present attempt began."""

    def open_steps(self) -> list[StepModel]:
        return [step for step in self.steps.values() if step.state in ("queued", "running")]

    def running(self) -> int:
        return sum(step.state == "running" for step in self.steps.values())


def lost(work: Any) -> bool:
    """Whether a write is refused because the hold is gone."""
    try:
        with db.writing() as session:
            work(session)
    except LostStep:
        return True
    return False


def save_episode(session: Any, claim: claims.Claim, episode: list[int]) -> None:
    """Store an episode as a worker would, under the fence; the unique key refuses a second one."""
    iteration, seed, member = episode
    at = db.clock(session)
    key = (col(Episode.job_id) == claim.job_id) & (col(Episode.seed) == seed) & (col(Episode.member) == member)
    if session.scalars(select(Episode).where(key)).first() is None:
        session.add(
            Episode(
                id=new_id("ep"), job_id=claim.job_id, step_id=claim.step_id, iteration=iteration, seed=seed, member=member,
                env="crafter", env_version="1", policy="random", state="done", created_at=at, finished_at=at,
            )
        )  # fmt: skip
    session.flush()
    lifecycle.guard(session, claim.step_id, claim.fence)


class Lifecycle(RuleBasedStateMachine):
    """Anything, in any order."""

    jobs = Bundle("jobs")
    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        with db.writing() as session:
            for table in reversed(SQLModel.metadata.sorted_tables):
                session.connection().execute(table.delete())
        self.model: dict[str, JobModel] = {}
        self.removed: set[str] = set()
        self.seen: dict[str, tuple[str, int]] = {}

    # -- the user ----------------------------------------------------------------------------------------------------------

    @rule(target=jobs, steps=st.integers(1, 3))
    def submit_noop(self, steps: int) -> str:
        return self._submitted(kit.submit_noop(steps), [])

    @rule(target=jobs, seeds=st.integers(1, 3), together=st.integers(1, 3), limit=st.sampled_from([None, None, 1, 2]))
    def submit_eval(self, seeds: int, together: int, limit: int | None) -> str:
        made = kit.submit_eval(f"0-{seeds - 1}", episodes_per_step=together, concurrency=limit)
        return self._submitted(made, [], limit)

    @initialize(target=jobs, seeds=st.integers(2, 3))
    def there_is_a_job(self, seeds: int) -> str:
        return self.submit_eval(seeds, 1, None)

    @rule(target=jobs, other=jobs, on=st.sampled_from(["ok", "any"]))
    def submit_after(self, other: str, on: str) -> Any:
        if other in self.removed:
            return multiple()
        after = [{"job": other, "on": on}]
        return self._submitted(kit.submit_noop(after=after), after)

    def _submitted(self, job: Job, after: list[dict[str, str]], limit: int | None = None) -> str:
        self.model[job.id] = JobModel(kind=job.kind, after=after, limit=limit)
        self._start_if_ready(job.id)
        return job.id

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        expected: type[Exception] | None = None
        model = self.model.get(job_id)
        if model is None:
            expected = JobNotFound
        elif model.state in ("succeeded", "failed"):
            expected = AlreadyEnded
        if not self._user(lifecycle.cancel, job_id, expected) or model is None or model.state == "cancelled":
            return
        model.cancelled = True
        for step in model.open_steps():
            if step.state == "queued":
                step.state = "cancelled"
        if model.state == "queued" or not model.open_steps():
            model.state = "cancelled"

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        expected: type[Exception] | None = None
        model = self.model.get(job_id)
        if model is None:
            expected = JobNotFound
        elif model.state == "succeeded":
            expected = AlreadyEnded
        elif model.state in ("queued", "running"):
            expected = Conflict
        if not self._user(lifecycle.retry, job_id, expected) or model is None:
            return
        model.state, model.cancelled, model.steps = "queued", False, {}
        model.attempt += 1
        model.done_before = self._done(job_id)
        self._start_if_ready(job_id)

    @rule(job_id=jobs)
    def remove(self, job_id: str) -> None:
        expected: type[Exception] | None = None
        model = self.model.get(job_id)
        if model is None:
            expected = JobNotFound
        elif model.state not in ENDED:
            expected = Conflict
        if self._user(lifecycle.remove, job_id, expected):
            del self.model[job_id]
            self.removed.add(job_id)

    def _user(self, verb: Any, job_id: str, expected: type[Exception] | None) -> bool:
        """Do what a user asks; True when it was granted, as it must be unless ``expected`` says otherwise."""
        wanted = Job(id=job_id, kind="", spec={}, spec_sha256="", created_at=0)
        if expected is not None:
            with pytest.raises(expected), db.writing() as session:
                verb(session, wanted)
            return False
        with db.writing() as session:
            verb(session, wanted)
        return True

    # -- workers -----------------------------------------------------------------------------------------------------------

    @rule(target=holds, queue=st.sampled_from(QUEUES), owner=st.sampled_from(["a", "b"]))
    def claim(self, queue: Queue, owner: str) -> Any:
        waiting = self._claimable(queue)
        got = claims.claim(queue, owner=owner, hint=None)
        assert (got is None) == (not waiting), f"claimable by the model: {waiting}; claimed: {got}"
        if got is None:
            return multiple()
        assert got.step_id in waiting
        job = self.model[got.job_id]
        step = job.steps[got.step_id]
        step.state, step.fence, step.attempt = "running", step.fence + 1, step.attempt + 1
        job.state = "running"
        assert (got.fence, got.attempt, got.job_attempt) == (step.fence, step.attempt, job.attempt)
        if got.kind == "play":
            again = job.done_before & {tuple(episode) for episode in got.payload["episodes"]}
            assert not again, f"{again} were done before attempt {job.attempt} of the job, and are asked for again"
        return got

    @rule(hold=holds)
    def renew(self, hold: claims.Claim) -> None:
        with self._only_if_held(hold):
            claims.renew(hold)

    @rule(hold=holds)
    def write_an_event(self, hold: claims.Claim) -> None:
        def work(session: Any) -> None:
            if hold.job_id in self.model:
                events.append(session, hold.job_id, "log", "hello", step_id=hold.step_id)
            lifecycle.guard(session, hold.step_id, hold.fence)

        assert lost(work) == (self._held(hold) is None)

    @rule(hold=holds, which=st.integers(0, 2))
    def play_one(self, hold: claims.Claim, which: int) -> None:
        if hold.kind != "play" or hold.job_id not in self.model:
            return
        episodes = hold.payload["episodes"]
        assert lost(lambda session: save_episode(session, hold, episodes[which % len(episodes)])) == (self._held(hold) is None)

    @rule(hold=holds)
    def finish(self, hold: claims.Claim) -> None:
        held = self._held(hold)
        if hold.kind == "play" and held:
            for episode in hold.payload["episodes"]:
                assert not lost(lambda session, episode=episode: save_episode(session, hold, episode))
        result = self._report(hold) if hold.kind == "report" else {}
        assert lost(lambda session: lifecycle.succeed_step(session, hold.step_id, hold.fence, result)) == (held is None)
        if held:
            held.state = "succeeded"
            self._advance(hold.job_id)

    @rule(hold=holds, retryable=st.booleans())
    def fail(self, hold: claims.Claim, retryable: bool) -> None:
        held = self._held(hold)
        write = lambda session: lifecycle.fail_step(session, hold.step_id, hold.fence, "it went wrong", retryable=retryable)  # noqa: E731
        assert lost(write) == (held is None)
        if held:
            self._requeue_or_end(hold.job_id, held, retryable=retryable)

    @rule(hold=holds)
    def hand_back(self, hold: claims.Claim) -> None:
        held = self._held(hold)
        assert lost(lambda session: lifecycle.hand_back(session, hold.step_id, hold.fence, "drain")) == (held is None)
        if held:
            held.attempt -= 1
            held.state = "cancelled" if self.model[hold.job_id].cancelled else "queued"
            self._advance(hold.job_id)

    @rule(hold=holds)
    def notice_the_cancel(self, hold: claims.Claim) -> None:
        held = self._held(hold)
        if held is None or not self.model[hold.job_id].cancelled:
            return
        assert not lost(lambda session: lifecycle.cancel_step(session, hold.step_id, hold.fence))
        held.state = "cancelled"
        self._advance(hold.job_id)

    @rule(hold=holds)
    def the_worker_dies_and_the_lease_runs_out(self, hold: claims.Claim) -> None:
        held = self._held(hold)
        if held is None:
            return
        kit.write("UPDATE step SET lease_until = 1 WHERE id = :id", id=hold.step_id)
        assert claims.release_expired() == 1
        self._requeue_or_end(hold.job_id, held, retryable=True)

    @rule(target=holds, hold=holds)
    def the_worker_pauses_and_another_takes_the_step(self, hold: claims.Claim) -> Any:
        """What a fence is for: the step runs again when the first worker wakes up and goes on writing."""
        if self._held(hold) is None:
            return multiple()
        self.the_worker_dies_and_the_lease_runs_out(hold)
        taken = []
        for queue in QUEUES:
            while (claim := self.claim(queue, "c")) is not None and isinstance(claim, claims.Claim):
                taken.append(claim)
        if any(claim.step_id == hold.step_id for claim in taken):
            assert lost(lambda session: lifecycle.guard(session, hold.step_id, hold.fence))
            assert lost(lambda session: lifecycle.succeed_step(session, hold.step_id, hold.fence, {}))
            assert lost(lambda session: lifecycle.fail_step(session, hold.step_id, hold.fence, "late", retryable=True))
            assert lost(lambda session: lifecycle.hand_back(session, hold.step_id, hold.fence, "late"))
            assert lost(lambda session: lifecycle.cancel_step(session, hold.step_id, hold.fence))
        return multiple(*taken)

    @rule()
    def a_half_played_job_is_cancelled_and_tried_again(self) -> None:
        claim = self.claim(Queue.ROLLOUT, "d")
        if not isinstance(claim, claims.Claim):
            return
        self.finish(claim)
        job_id = claim.job_id
        self.cancel(job_id)
        self.a_grace_is_over()
        assert self.model[job_id].state == "cancelled"
        self.retry(job_id)

    @rule()
    def sweep(self) -> None:
        reconciler.sweep()
        for job_id in self.model:
            self._start_if_ready(job_id)

    @rule()
    def a_grace_is_over(self) -> None:
        kit.write("UPDATE job SET cancel_requested_at = 1 WHERE cancel_requested_at IS NOT NULL")
        reconciler.cancel_overdue()
        for job_id, job in self.model.items():
            if job.cancelled and job.state == "running":
                for step in job.open_steps():
                    step.state = "cancelled"
                self._advance(job_id)

    # -- the model's own moves ---------------------------------------------------------------------------------------------

    def _held(self, hold: claims.Claim) -> StepModel | None:
        job = self.model.get(hold.job_id)
        step = job.steps.get(hold.step_id) if job else None
        return step if step and step.state == "running" and step.fence == hold.fence else None

    @contextmanager
    def _only_if_held(self, hold: claims.Claim) -> Any:
        if self._held(hold):
            yield
        else:
            with pytest.raises(LostStep):
                yield

    def _claimable(self, queue: Queue) -> set[str]:
        ids = set()
        for job_id, job in self.model.items():
            if job.state in ("queued", "running") and (job.limit is None or job.running() < job.limit):
                queued = {id for id, step in job.steps.items() if step.state == "queued"}
                ids |= {step.id for step in kit.steps(job_id) if step.id in queued and step.queue == queue}
        return ids

    def _requeue_or_end(self, job_id: str, step: StepModel, *, retryable: bool) -> None:
        if self.model[job_id].cancelled:
            step.state = "cancelled"
        else:
            step.state = "queued" if retryable and step.attempt < MAX_ATTEMPTS else "failed"
        self._advance(job_id)

    def _start_if_ready(self, job_id: str) -> None:
        job = self.model[job_id]
        if job.state != "queued" or job.steps:
            return
        states = [self.model[need["job"]].state if need["job"] in self.model else "removed" for need in job.after]
        if all(state in ENDED or state == "removed" for state in states):
            if any(need["on"] == "ok" and state != "succeeded" for need, state in zip(job.after, states, strict=True)):
                job.state = "failed"
            else:
                self._adopt_new_steps(job_id)

    def _adopt_new_steps(self, job_id: str) -> None:
        """Take over the steps that the core has just made; there must be some, all of them queued and new."""
        job = self.model[job_id]
        made = [s for s in kit.steps(job_id) if s.job_attempt == job.attempt and s.id not in job.steps]
        assert made, f"{job.kind} {job_id} should have new steps and has none"
        assert {(s.state, s.fence, s.attempt) for s in made} == {("queued", 0, 0)}
        job.steps |= {s.id: StepModel() for s in made}

    def _advance(self, job_id: str) -> None:
        job = self.model[job_id]
        if job.state != "running" or job.open_steps():
            return
        if job.cancelled:
            job.state = "cancelled"
        elif job.kind == "noop":
            job.state = "succeeded" if all(s.state == "succeeded" for s in job.steps.values()) else "failed"
        elif (report := self._report_state(job_id)) is None:
            self._adopt_new_steps(job_id)
        else:
            whole = report == "succeeded" and len(self._done(job_id)) == len(kit.job(job_id).spec["eval"]["seeds"])
            job.state = "succeeded" if whole else "failed"

    def _report_state(self, job_id: str) -> str | None:
        job = self.model[job_id]
        reports = [s.id for s in kit.steps(job_id) if s.kind == "report" and s.job_attempt == job.attempt]
        return job.steps[reports[0]].state if reports and reports[0] in job.steps else None

    def _done(self, job_id: str) -> set[tuple[int, int, int]]:
        return {(0, seed, member) for seed, member in kit.played(job_id)}

    def _report(self, hold: claims.Claim) -> dict[str, Any]:
        if hold.job_id not in self.model:
            return {}
        return {"episodes": {"asked": len(hold.spec["eval"]["seeds"]), "done": len(self._done(hold.job_id))}}

    # -- what always holds -------------------------------------------------------------------------------------------------

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        with db.reading() as session:
            jobs = {job.id: job for job in session.scalars(select(Job))}
            steps = list(session.scalars(select(Step)))
            numbered = session.execute(select(col(JobEvent.job_id), col(JobEvent.seq)).order_by(col(JobEvent.seq))).all()
            session.expunge_all()
        assert {id: (job.state, job.attempt) for id, job in jobs.items()} == {
            id: (model.state, model.attempt) for id, model in self.model.items()
        }
        for id, job in jobs.items():
            assert [seq for job_id, seq in numbered if job_id == id] == list(range(1, job.event_seq + 1))
            assert (job.finished_at is not None) == (job.state in ENDED)
            mine = {s.id: s for s in steps if s.job_id == id and s.job_attempt == job.attempt}
            assert {i: (s.state, s.fence, s.attempt) for i, s in mine.items()} == {
                i: (s.state, s.fence, s.attempt) for i, s in self.model[id].steps.items()
            }
            assert sum(s.state == "running" for s in mine.values()) <= (job.max_parallel or 99)
        for step in steps:
            assert step.attempt <= step.max_attempts
            assert (step.lease_until is not None) == (step.state == "running")
            assert (step.finished_at is not None) == (step.state in ENDED)
            state, fence = self.seen.get(step.id, (step.state, 0))
            assert step.fence >= fence, "a fence went back"
            assert state not in ENDED or step.state == state, f"a step that was {state} is {step.state}"
            self.seen[step.id] = (step.state, step.fence)

    def teardown(self) -> None:
        """With workers that do their work, every job ends; and no hold of before can write anything."""
        kit.write("UPDATE step SET lease_until = 1 WHERE state = 'running'")
        for _ in range(100):
            reconciler.sweep()
            with db.reading() as session:
                open_jobs = session.scalars(select(col(Job.id)).where(col(Job.state).not_in(ENDED))).all()
            if not open_jobs:
                break
            for queue in QUEUES:
                while (claim := claims.claim(queue, owner="last")) is not None:
                    self._work(claim)
        assert not open_jobs, f"these jobs never end: {[kit.job(id) for id in open_jobs]}"

    def _work(self, claim: claims.Claim) -> None:
        result: dict[str, Any] = {}
        if claim.kind == "play":
            for episode in claim.payload["episodes"]:
                assert not lost(lambda session, episode=episode: save_episode(session, claim, episode))
        if claim.kind == "report":
            result = {"episodes": {"asked": len(claim.spec["eval"]["seeds"]), "done": len(self._done(claim.job_id))}}
        assert not lost(lambda session: lifecycle.succeed_step(session, claim.step_id, claim.fence, result))


def run_machine(examples: int, moves: int) -> None:
    never = {"SYNTHQ_CANCEL_GRACE_S": "3600", "SYNTHQ_LEASE_S": "3600"}  # on a busy machine time passes too
    with kit.use_settings(SYNTHQ_MAX_ATTEMPTS=str(MAX_ATTEMPTS), SYNTHQ_BACKOFF_S="0", **never):
        run_state_machine_as_test(
            Lifecycle,
            settings=settings(
                max_examples=examples,
                stateful_step_count=moves,
                deadline=None,
                phases=[Phase.generate],  # a failure is told at once: making it smaller takes minutes
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_only_legal_moves_happen_and_every_job_ends(sqlite_store: str, own_home: Path) -> None:
    run_machine(examples=15, moves=40)


def test_the_same_on_postgres(postgres_store: str) -> None:
    run_machine(examples=5, moves=30)


@pytest.mark.slow
def test_the_same_for_longer(store: str) -> None:
    run_machine(examples=20, moves=50)
