"""Faults, done to real processes that play a real eval. After each: the job has ended, every episode was played exactly once, and
each trace equals the one of an undisturbed run.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from core import kit
from core.kit import Process, System, short_folder
from sqlalchemy import func, select
from sqlmodel import col

from app import broker as broker_module
from app import db, lifecycle, migrate
from app.models import Episode, Job, Queue, Step, TurnRow
from workers import runner
from workers.tasks import STEPS

pytestmark = pytest.mark.integration

SEEDS = "0-7"
TURNS = 250
LONG_LEASE = {"SYNTHQ_LEASE_S": "120"}
SEGMENTS = {"SYNTHQ_SEGMENT_S": "0.05"}
"""Several segments an episode, so that faults meet episodes that are half stored."""


def submit(seeds: str = SEEDS, **table: object) -> Job:
    return kit.submit_eval(seeds, max_turns=TURNS, episodes_per_step=2, **table)


@pytest.fixture(scope="session")
def undisturbed() -> Iterator[dict[tuple[int, int], str | None]]:
    """(seed, member) -> hash of the trace, as one process plays it in one go."""
    with short_folder("sq-") as home, kit.use_settings(SYNTHQ_HOME=str(home), SYNTHQ_WORKER_ID="undisturbed"):
        migrate.upgrade()
        job = submit()
        while any(runner.run_hint(queue, STEPS, hint=None) for queue in (Queue.ROLLOUT, Queue.DATA)):
            pass
        assert kit.job(job.id).state == "succeeded"
        yield kit.played(job.id)


def half_done(job: Job) -> bool:
    """Whether something is done, and something runs."""
    return bool(kit.played(job.id)) and running_step(job) is not None


def running_step(job: Job) -> Step | None:
    return next((step for step in kit.steps(job.id) if step.state == "running" and step.kind == "play"), None)


def in_the_middle(system: System, job: Job) -> Step:
    """Wait until the job is half done; gives a step that runs."""
    kit.until(lambda: half_done(job), 30, "the job is half done\n" + system.said())
    found = running_step(job)
    assert found is not None, "the job ended before the fault could be done: give it more episodes"
    return found


def worker_of(system: System, step: Step) -> Process:
    """The worker process that holds a step, by the place in its id."""
    assert step.owner is not None
    return system.processes[int(step.owner.rpartition("-")[2])]


def check(system: System, job: Job, undisturbed: dict[tuple[int, int], str | None]) -> list[Step]:
    """The job succeeded, with every episode once and as it is played undisturbed; gives its steps."""
    ended = system.ended(job.id)
    assert (ended.state, ended.reason) == ("succeeded", None), system.said()
    assert kit.played(job.id) == undisturbed
    assert ended.summary is not None
    assert ended.summary["episodes"]["done"] == len(undisturbed)
    whole_turns(job)
    rows = kit.steps(job.id)
    assert [row.kind for row in rows].count("report") == 1
    assert all(row.fence >= row.attempt for row in rows)
    return rows


def whole_turns(job: Job) -> None:
    """Every episode has each of its turns once."""
    query = select(col(Episode.turns), func.count(), func.min(TurnRow.index), func.max(TurnRow.index))
    query = query.join(TurnRow, col(TurnRow.episode_id) == Episode.id).where(col(Episode.job_id) == job.id)
    with db.reading() as session:
        for turns, count, first, last in session.execute(query.where(col(Episode.state) == "done").group_by(col(Episode.id))):
            assert (count, first, last) == (turns, 0, turns - 1)


def requeued(job: Job) -> list[str]:
    return [event.message for event in kit.job_events(job.id) if event.type == "step.requeued"]


def test_nothing_happens(system: System, undisturbed: dict[tuple[int, int], str | None]) -> None:
    system.up(workers=2, **SEGMENTS)
    job = submit()
    rows = check(system, job, undisturbed)
    assert {row.fence for row in rows} == {1}
    assert requeued(job) == []


def test_a_pool_process_is_killed_and_its_step_goes_on_at_once(
    system: System, undisturbed: dict[tuple[int, int], str | None]
) -> None:
    (worker,) = system.up(workers=1, **LONG_LEASE, **SEGMENTS)
    job = submit()
    in_the_middle(system, job)
    for child in worker.children():
        os.kill(child, signal.SIGKILL)
    # Celery notices at once, or at the latest when it next counts its processes, every 5 s.
    kit.until(lambda: requeued(job), 15, "the step is given back long before its lease runs out")
    assert "its process died" in requeued(job)[0]
    check(system, job, undisturbed)


def test_a_worker_is_killed(system: System, undisturbed: dict[tuple[int, int], str | None]) -> None:
    system.up(workers=2, **SEGMENTS)
    job = submit()
    worker_of(system, in_the_middle(system, job)).kill()
    rows = check(system, job, undisturbed)
    assert "its lease ran out" in requeued(job)[0]
    assert max(row.fence for row in rows) == 2


def test_a_worker_sleeps_longer_than_its_lease_and_wakes_up_fenced(
    system: System, undisturbed: dict[tuple[int, int], str | None]
) -> None:
    system.up(workers=2, **SEGMENTS)
    job = submit()
    held = in_the_middle(system, job)
    sleeper = worker_of(system, held)
    os.killpg(sleeper.pid, signal.SIGSTOP)
    held = kit.step(held.id)
    kit.until(lambda: kit.step(held.id).fence > held.fence or held.state != "running", 20, "another worker takes the step")
    os.killpg(sleeper.pid, signal.SIGCONT)
    check(system, job, undisturbed)
    if held.state == "running":
        kit.until(lambda: "is no longer held" in sleeper.said(), 10, "the sleeper notices")
    late = submit("0-1")
    assert system.ended(late.id).state == "succeeded"


def test_a_worker_is_asked_to_end_and_hands_its_step_back(system: System, undisturbed: dict[tuple[int, int], str | None]) -> None:
    (worker,) = system.up(workers=1, **LONG_LEASE, **SEGMENTS)
    job = submit()
    in_the_middle(system, job)
    began = time.monotonic()
    worker.send(signal.SIGTERM)
    assert worker.wait(20) == 0, system.said()
    assert time.monotonic() - began < 10
    rows = kit.steps(job.id)
    assert "running" not in {row.state for row in rows}
    assert {row.attempt for row in rows if row.state == "queued"} == {0}
    assert kit.live_workers() == []
    system.worker(**LONG_LEASE, **SEGMENTS)
    check(system, job, undisturbed)
    assert requeued(job) == []


def test_the_broker_is_emptied_again_and_again(system: System, undisturbed: dict[tuple[int, int], str | None]) -> None:
    system.up(workers=2, **SEGMENTS)
    job = submit()
    while kit.ended(job.id) is None and len(kit.played(job.id)) < 6:
        system.broker.client.flushall()
        time.sleep(0.2)
    check(system, job, undisturbed)


def test_the_broker_is_killed_and_comes_back_empty(system: System, undisturbed: dict[tuple[int, int], str | None]) -> None:
    system.up(workers=2, **SEGMENTS)
    job = submit()
    in_the_middle(system, job)
    system.broker.kill()
    for left in (system.home / "broker").rglob("*"):
        if left.is_file():
            left.unlink()
    late = submit("0-1")
    system.broker.start()
    check(system, job, undisturbed)
    assert system.ended(late.id).state == "succeeded"


@pytest.mark.slow
def test_the_broker_is_frozen_for_longer_than_a_lease(system: System, undisturbed: dict[tuple[int, int], str | None]) -> None:
    system.up(workers=2, **SEGMENTS)
    job = submit()
    in_the_middle(system, job)
    with system.broker.frozen():
        kit.until(lambda: running_step(job) is None, 20, "what runs is done without the broker")
        time.sleep(4)
    check(system, job, undisturbed)
    assert requeued(job) == [], "a step that runs needs no broker"


@pytest.mark.slow
def test_the_scheduler_is_killed(system: System, undisturbed: dict[tuple[int, int], str | None]) -> None:
    system.up(workers=2, **SEGMENTS)
    job = submit()
    in_the_middle(system, job)
    system.processes[0].kill()
    kit.write("DELETE FROM leader")  # what the lead time would do
    system.scheduler()
    check(system, job, undisturbed)


@pytest.mark.slow
def test_hints_come_twice_and_for_what_is_no_more(system: System, undisturbed: dict[tuple[int, int], str | None]) -> None:
    system.up(workers=2, **SEGMENTS)
    gone = submit("0-1")
    with db.writing() as session:
        lifecycle.cancel(session, gone)
    kit.until(lambda: kit.ended(gone.id), 10, "the cancelled job ends")
    ids = [step.id for step in kit.steps(gone.id)]
    with db.writing() as session:
        lifecycle.remove(session, gone)
    job = submit()
    publisher = broker_module.HintPublisher()
    publisher.publish(Queue.ROLLOUT, [*ids, "stp_nonsense", *[step.id for step in kit.steps(job.id)] * 10])
    publisher.publish(Queue.DATA, [*ids, *[step.id for step in kit.steps(job.id)] * 10])
    publisher.close()
    rows = check(system, job, undisturbed)
    assert {row.fence for row in rows} == {1}
    assert kit.until(lambda: broker_module.depth(Queue.ROLLOUT) == 0, 10, "stray hints are read and forgotten")


POISON = """
import os, signal
from workers.rollout.policies.random import Random

class Poison(Random):
    async def reply(self, request):
        if self._key[2] == 3 and request.index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().reply(request)
"""


@pytest.fixture
def poison(tmp_path: Path) -> dict[str, str]:
    """Where a package lies that registers a policy which kills its process when it plays seed 3; otherwise it is ``random``."""
    (tmp_path / "poison_policy.py").write_text(POISON)
    told = tmp_path / "poison_policy-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: poison-policy\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[synthq.policies]\npoison = poison_policy:Poison\n")
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.slow
def test_an_episode_that_kills_its_process_costs_its_own_seed_and_no_other(
    system: System, undisturbed: dict[tuple[int, int], str | None], poison: dict[str, str]
) -> None:
    with kit.use_settings(SYNTHQ_MAX_ATTEMPTS="2"):
        system.up(workers=1, **LONG_LEASE, **poison)
        job = submit("2-5", policies=["poison"])
        ended = system.ended(job.id)
    assert ended.state == "failed"
    assert ended.reason is not None
    assert ended.reason.startswith("1 of 4 episodes failed: worker_lost: its process died"), ended.reason
    assert kit.played(job.id) == {key: undisturbed[key] for key in [(2, 0), (4, 0), (5, 0)]}
    whole_turns(job)
    alone = [step for step in kit.steps(job.id) if step.payload.get("episodes") == [[0, 3, 0]]]
    assert [(step.state, step.attempt) for step in alone] == [("failed", 2)]


def test_a_job_is_cancelled_in_the_middle_and_plays_what_is_missing_when_tried_again(
    system: System, undisturbed: dict[tuple[int, int], str | None]
) -> None:
    system.up(workers=2, **SEGMENTS)
    job = submit()
    in_the_middle(system, job)
    with db.writing() as session:
        lifecycle.cancel(session, job)
    assert system.ended(job.id, 10).state == "cancelled"
    done = kit.played(job.id)
    assert 0 < len(done) < len(undisturbed)
    with db.writing() as session:
        lifecycle.retry(session, job)
    again = [tuple(e[1:]) for s in kit.steps(job.id) if s.job_attempt == 2 for e in s.payload.get("episodes", [])]
    assert sorted(again) == sorted(undisturbed.keys() - done.keys())
    assert system.ended(job.id).state == "succeeded"
    assert kit.played(job.id) == undisturbed
    whole_turns(job)
