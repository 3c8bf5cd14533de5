"""Claims: nothing twice, nothing lost, nobody starved, no limit passed, no deadlock; in both databases, with real contention."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from core import kit
from sqlalchemy import text

from app import claims, db, lifecycle, reconciler
from app.errors import Conflict, JobNotFound, LostStep
from app.models import Job, Queue

CLAIMERS = 8
SECONDS = 4.0
"""How long everything happens at once."""


def finish(claim: claims.Claim) -> None:
    with db.writing() as session:
        lifecycle.succeed_step(session, claim.step_id, claim.fence, {})


def claim_all(name: str) -> list[tuple[str, int]]:
    """Claim and finish until nothing waits; gives (step, fence) of each."""
    taken = []
    while (claim := claims.claim(Queue.DATA, owner=name)) is not None:
        taken.append((claim.step_id, claim.fence))
        finish(claim)
    db.dispose()
    return taken


def together(work: Callable[[int], None], count: int = CLAIMERS, *, timeout_s: float = 60) -> None:
    """Run ``work(i)`` in threads; fail with the first of their errors."""
    errors: list[BaseException] = []

    def run(i: int) -> None:
        try:
            work(i)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads), f"not done within {timeout_s:g} s"


def test_eight_processes_claim_every_step_exactly_once(store: str) -> None:
    jobs = [kit.submit_noop(40) for _ in range(4)]
    with multiprocessing.get_context("fork").Pool(CLAIMERS) as pool:
        taken = [pair for pairs in pool.map(claim_all, [f"p{i}" for i in range(CLAIMERS)], chunksize=1) for pair in pairs]
        pool.close()
        pool.join()
    rows = [step for job in jobs for step in kit.steps(job.id)]
    assert Counter(taken) == Counter((step.id, 1) for step in rows)
    assert {step.state for step in rows} == {"succeeded"}
    assert {kit.job(job.id).state for job in jobs} == {"succeeded"}
    assert [kit.job(job.id).event_seq for job in jobs] == [3] * 4  # created, started, succeeded


def test_a_late_small_job_does_not_wait_for_a_large_one(store: str) -> None:
    large = kit.submit_noop(500)
    held = [claims.claim(Queue.DATA, owner="w") for _ in range(8)]
    small = kit.submit_noop(3)
    order = []
    for claim in held[:3]:
        assert claim is not None
        finish(claim)
        following = claims.claim(Queue.DATA, owner="w")
        assert following is not None
        order.append(following.job_id)
    assert order == [small.id] * 3
    assert kit.job(large.id).state == "running"


def test_jobs_of_one_priority_share_the_workers_evenly(store: str) -> None:
    jobs = [kit.submit_noop(20).id for _ in range(3)]
    taken = Counter(claim.job_id for _ in range(12) if (claim := claims.claim(Queue.DATA, owner="w")) is not None)
    assert taken == dict.fromkeys(jobs, 4)


def test_one_worker_takes_turns_between_jobs(store: str) -> None:
    jobs = [kit.submit_noop(4).id for _ in range(3)]
    order = []
    for _ in range(6):
        claim = claims.claim(Queue.DATA, owner="w")
        assert claim is not None
        finish(claim)
        order.append(claim.job_id)
    assert order == jobs * 2


def test_a_higher_priority_goes_first_however_late_it_comes(store: str) -> None:
    kit.submit_noop(5)
    first = claims.claim(Queue.DATA, owner="w")
    urgent = kit.submit_noop(2, priority=5)
    following = [claims.claim(Queue.DATA, owner="w") for _ in range(2)]
    assert first is not None
    assert [claim.job_id for claim in following if claim] == [urgent.id] * 2


def test_a_step_that_pauses_is_not_claimed_before_its_time(store: str) -> None:
    kit.submit_noop()
    kit.write("UPDATE step SET available_at = available_at + 3600")
    assert claims.claim(Queue.DATA, owner="w") is None
    kit.write("UPDATE step SET available_at = available_at - 3600")
    assert claims.claim(Queue.DATA, owner="w") is not None


def test_a_jobs_own_limit_is_never_passed(store: str) -> None:
    job = kit.submit_eval("0-29", episodes_per_step=1, concurrency=3)
    running: list[str] = []
    most = 0
    lock = threading.Lock()

    def work(i: int) -> None:
        nonlocal most
        while kit.job(job.id).state in ("queued", "running"):
            claim = claims.claim(Queue.ROLLOUT, owner=f"w{i}")
            if claim is None:
                with db.reading() as session:
                    waits = session.execute(text("SELECT count(*) FROM step WHERE state = 'queued' AND kind = 'play'")).scalar()
                if not waits:
                    return
                continue
            with lock:
                running.append(claim.step_id)
                most = max(most, len(running))
            deadline = time.monotonic() + 2
            while most < 3 and time.monotonic() < deadline:  # hold the step until others have claimed beside it
                time.sleep(0.002)
            time.sleep(0.01)
            with lock:
                running.remove(claim.step_id)
            finish(claim)

    together(work)
    assert most == 3
    assert [s.state for s in kit.steps(job.id) if s.kind == "play"] == ["succeeded"] * 30


def test_a_claim_locks_one_job_at_a_time(postgres_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holding the lock of a job that others emptied while asking for the next one's is how two claims come to a deadlock."""
    kit.submit_noop()
    kit.submit_noop()
    real = claims._claim_from
    looked_at: list[str] = []

    def emptied_by_others(session: Any, job_id: str, *args: Any, **more: Any) -> claims.Claim | None:
        looked_at.append(job_id)
        if len(looked_at) == 1:
            claims.lock_job(session, job_id)
            return None
        with db.writing() as other:
            other.execute(text("SELECT id FROM job WHERE id = :id FOR UPDATE NOWAIT"), {"id": looked_at[0]})
        return real(session, job_id, *args, **more)

    monkeypatch.setattr(claims, "_claim_from", emptied_by_others)
    claim = claims.claim(Queue.DATA, owner="w")
    assert claim is not None
    assert [claim.job_id] == looked_at[1:]


def test_a_job_that_is_removed_before_it_is_locked_is_passed_over(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, stays = kit.submit_noop(), kit.submit_noop()
    real = claims._claim_from

    def removed_by_a_user(session: Any, job_id: str, *args: Any, **more: Any) -> claims.Claim | None:
        if job_id == gone.id:
            raise JobNotFound(job_id)
        return real(session, job_id, *args, **more)

    monkeypatch.setattr(claims, "_claim_from", removed_by_a_user)
    claim = claims.claim(Queue.DATA, owner="w")
    assert claim is not None
    assert claim.job_id == stays.id


def test_no_deadlock_when_everything_happens_at_once(postgres_store: str) -> None:
    for _ in range(4):
        kit.submit_noop(3)
    until = time.monotonic() + SECONDS
    counts: Counter[str] = Counter()

    def some_job(draw: random.Random) -> Job:
        with db.reading() as session:
            ids = session.execute(text("SELECT id FROM job ORDER BY created_at DESC LIMIT 6")).scalars().all()
        return Job(id=draw.choice(ids), kind="", spec={}, spec_sha256="", created_at=0)

    def user(draw: random.Random) -> str:
        verb = draw.choice([lifecycle.cancel, lifecycle.retry, lifecycle.remove, None])
        if verb is None or counts["submit"] < 10:
            kit.submit_noop(draw.randint(1, 4))
            return "submit"
        with db.writing() as session:
            verb(session, some_job(draw))
        return str(verb.__name__)

    def worker(draw: random.Random) -> str:
        claim = claims.claim(Queue.DATA, owner="w", hint=f"h{draw.randint(0, 3)}")
        if claim is None:
            return "nothing"
        what = draw.choice(["finish", "fail", "hand_back", "event", "expire", "die", "renew"])
        if what == "renew":
            claims.renew(claim)
        elif what == "expire":
            kit.write("UPDATE step SET lease_until = 1 WHERE id = :id", id=claim.step_id)
        elif what == "die":
            claims.release_hint(f"h{draw.randint(0, 3)}", "gone")
        else:
            with db.writing() as session:
                if what == "finish":
                    lifecycle.succeed_step(session, claim.step_id, claim.fence, {})
                elif what == "fail":
                    lifecycle.fail_step(session, claim.step_id, claim.fence, "no", retryable=draw.random() < 0.5)
                elif what == "hand_back":
                    lifecycle.hand_back(session, claim.step_id, claim.fence, "drain")
                else:
                    lifecycle.events.append(session, claim.job_id, "log", "hello")
                    lifecycle.guard(session, claim.step_id, claim.fence)
        return what

    def sweeper(draw: random.Random) -> str:
        reconciler.sweep()
        return "sweep"

    def work(i: int) -> None:
        draw = random.Random(i)
        act = [sweeper, sweeper, user, user, worker, worker, worker, worker][i]
        while time.monotonic() < until:
            try:
                counts[act(draw)] += 1
            except (Conflict, LostStep, JobNotFound):
                counts["refused"] += 1

    together(work, 8, timeout_s=SECONDS + 20)
    with db.reading() as session:
        deadlocks = session.execute(text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")).scalar()
    assert deadlocks == 0, counts
    assert min(counts[name] for name in ("sweep", "submit", "finish", "cancel", "expire", "die")) > 0, counts
