"""Published adapters: nobody plays with one that is not loaded everywhere, and none goes while somebody plays with it."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from core import kit
from core.serving import BASE, OTHER, adapter, begin, bring_there, look, row, submit_play, up, use
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select
from sqlmodel import SQLModel, col

from app import claims, db, endpoints, heartbeat
from app.endpoints import publish
from app.errors import LostStep
from app.models import AdapterHold, AdapterVersion, Job, Queue
from app.store.waiting import waiting_reason

SHA = "b" * 64


RUNNING = 4
"""Steps of ``line`` that run."""


def line(row: dict[str, Any] | None = None) -> Job:
    """A job that publishes versions and plays with them; its first steps run, each under fence 1, and more wait."""
    job = submit_play(row or use(label="model:/line", line="x"), seeds="0-9")
    held = "state = 'running', fence = 1, attempt = 1, owner = 'w', lease_until = 9e12"
    kit.write(f"UPDATE step SET {held} WHERE position < :count AND job_id = :id", count=RUNNING, id=job.id)
    kit.write("UPDATE job SET state = 'running' WHERE id = :id", id=job.id)
    return job


def published(job: Job, base: str = BASE) -> int:
    with db.writing() as session:
        return publish.publish(session, job.id, base, f"/versions/{job.id}", sha256=SHA)


def taken(job: Job, step: int = 0, fence: int = 1) -> str | None:
    """The version that a step of the job plays with."""
    step_id = kit.steps(job.id)[step].id
    with db.writing() as session:
        return publish.take(session, job.id, step_id, fence)


def states(job: Job) -> dict[int, str]:
    """The versions of a job, by number."""
    with db.reading() as session:
        rows = session.scalars(select(AdapterVersion).where(col(AdapterVersion.line) == job.id)).all()
        return {each.version: each.state for each in rows}


def name(job: Job, version: int) -> str:
    return f"{job.id}-v{version}"


def let_go(job: Job, step: int, fence: int = 1) -> None:
    with db.writing() as session:
        publish.let_go(session, kit.steps(job.id)[step].id, fence)


def test_a_version_goes_live_once_every_ready_endpoint_of_its_base_has_it(store: str) -> None:
    job = line()
    submit_play(use(OTHER), seeds="0")
    one, two, elsewhere = up("one"), up("two"), up("three", base=OTHER)
    assert published(job) == 1
    look()
    assert states(job) == {1: "loading"}
    assert taken(job) is None
    assert row(one).desired["adapters"] == {name(job, 1): f"/versions/{job.id}"}
    bring_there(one)
    look()
    assert states(job) == {1: "loading"}
    bring_there(two)
    look()
    assert states(job) == {1: "live"}
    assert taken(job) == name(job, 1)
    assert row(elsewhere).desired["adapters"] == {}


def test_nothing_goes_live_while_no_endpoint_lives(store: str) -> None:
    job = line()
    published(job)
    look()
    id = up(adapters={name(job, 1): {"path": "", "sha256": SHA}})
    kit.write("UPDATE endpoint SET heartbeat_at = 1")
    look()
    assert states(job) == {1: "loading"}
    endpoints.beat(id)
    look()
    assert states(job) == {1: "live"}


def test_an_old_version_stays_until_the_last_step_that_began_on_it_has_ended(store: str) -> None:
    job = line()
    id = up()
    published(job)
    look()
    bring_there(id)
    look()
    assert taken(job, 0) == taken(job, 1) == name(job, 1)
    published(job)
    look()
    bring_there(id)
    look()
    assert states(job) == {1: "draining", 2: "live"}
    assert set(row(id).desired["adapters"]) == {name(job, 1), name(job, 2)}
    assert taken(job, 0) == name(job, 1), "a step keeps what it took"
    assert taken(job, 2) == name(job, 2)
    let_go(job, 0)
    look()
    assert states(job)[1] == "draining"
    kit.write("UPDATE step SET state = 'succeeded' WHERE id = :id", id=kit.steps(job.id)[1].id)
    look()
    assert states(job) == {1: "retired", 2: "live"}
    look()
    assert set(row(id).desired["adapters"]) == {name(job, 2)}


def test_a_hold_counts_for_nothing_once_the_step_was_claimed_anew(store: str) -> None:
    job = line()
    id = up()
    published(job)
    look()
    bring_there(id)
    look()
    assert taken(job, 0) == name(job, 1)
    published(job)
    look()
    bring_there(id)
    look()
    kit.write("UPDATE step SET fence = 2 WHERE id = :id", id=kit.steps(job.id)[0].id)
    look()
    assert states(job) == {1: "retired", 2: "live"}
    with pytest.raises(LostStep):
        taken(job, 0, fence=1)
    assert taken(job, 0, fence=2) == name(job, 2)
    let_go(job, 0, fence=1)  # late words of the worker that lost it
    with db.reading() as session:
        assert session.get(AdapterHold, (kit.steps(job.id)[0].id, job.id)) is not None


@pytest.mark.parametrize("other_bytes", [False, True])
def test_a_version_that_an_endpoint_cannot_load_fails_and_the_live_one_stays(store: str, other_bytes: bool) -> None:
    job = line()
    id = up()
    published(job)
    look()
    bring_there(id)
    look()
    published(job)
    look()
    if other_bytes:
        loaded = {**row(id).adapters, name(job, 2): {"path": "", "sha256": "c" * 64}}
        endpoints.report(id, adapters=loaded)
        why = f"found other bytes in /versions/{job.id} (sha256 {'c' * 64}) than were published ({SHA})"
    else:
        endpoints.failed(id, name(job, 2), "its rank is 128", lasting=True)
        why = "could not load it: its rank is 128"
    look()
    assert states(job) == {1: "live", 2: "failed"}
    with db.reading() as session:
        version = session.get(AdapterVersion, (job.id, 2))
        assert version is not None
        assert version.reason == f"endpoint {id} {why}"
    assert set(row(id).desired["adapters"]) == {name(job, 1)}
    assert kit.job_events(job.id)[-1].type == "adapter.failed"
    assert taken(job) == name(job, 1)
    published(job)
    look()
    bring_there(id)
    look()
    assert states(job) == {1: "draining", 2: "failed", 3: "live"}


def test_a_step_of_a_line_waits_in_its_queue_while_no_version_is_live(store: str) -> None:
    heartbeat.lead("scheduler", "one", 600.0)
    heartbeat.register("w", role="rollout", queues=["rollout", "data"], slots=9)
    job = submit_play(use(label="model:/line", line="x"))
    kit.write("UPDATE model_use SET line = job_id")
    id = begin()
    look()
    bring_there(id)
    assert claims.claim(Queue.ROLLOUT, owner="w") is None
    with db.reading() as session:
        told = waiting_reason(session, kit.job(job.id))
    assert told == f"endpoint {id} serves {BASE}, and no version of /line on it yet"
    published(job)
    look()
    assert claims.claim(Queue.ROLLOUT, owner="w") is None, "it is not loaded yet"
    bring_there(id)
    look()
    assert states(job) == {1: "live"}
    assert kit.claim().job_id == job.id
    endpoints.report(id, adapters={})
    assert claims.claim(Queue.ROLLOUT, owner="w") is None, "an engine that began anew has not loaded it again yet"


@pytest.mark.parametrize("room", [1, 2])
def test_as_many_lines_as_there_is_room_for_adapters_all_go_on(store: str, room: int) -> None:
    jobs = [line(use(label="model:/line", line="x", options={"max_loras": room})) for _ in range(2)]
    id = up()

    def moved() -> None:
        for job in jobs:
            published(job)
        for _ in range(4):
            look()
            bring_there(id)

    moved()
    assert [taken(job) for job in jobs] == [name(job, 1) for job in jobs]
    moved()
    assert [states(job) for job in jobs] == [{1: "draining", 2: "live"}] * 2
    for job in jobs:
        let_go(job, 0)
    moved()
    assert [states(job) for job in jobs] == [{1: "retired", 2: "retired", 3: "live"}] * 2


def test_adapters_that_never_change_leave_a_line_room_and_are_served_beside_it(store: str) -> None:
    id = begin()
    others = [submit_play(adapter(f"adapter-{letter}", options={"max_loras": 1}), seeds="0", priority=9) for letter in "abc"]
    job = line(use(label="model:/line", line="x", options={"max_loras": 1}))
    for version in (1, 2, 3):
        published(job)
        for _ in range(3):
            look()
            bring_there(id)
        assert states(job)[version] == "live"
        fixed = [each for each in row(id).adapters if each.startswith("adapter-")]
        assert fixed, "the others' adapters have their turn too"
    assert {kit.job(other.id).state for other in others} == {"queued"}


def test_a_line_that_finds_no_room_for_its_versions_waits_for_its_turn(store: str) -> None:
    id = begin()
    older = submit_play(adapter("adapter-a", options={"max_loras": 1}))
    look()
    bring_there(id)
    kit.claim()
    job = line(use(label="model:/line", line="x", options={"max_loras": 1}))
    published(job)
    look()
    assert list(row(id).desired["adapters"]) == ["adapter-a"]
    kit.write("UPDATE job SET state = 'cancelled' WHERE id = :id", id=older.id)
    for _ in range(3):
        look()
        bring_there(id)
    assert states(job) == {1: "live"}


def test_a_newer_version_that_is_loaded_everywhere_overtakes_an_older_one(store: str) -> None:
    job = line()
    id = up()
    assert [published(job), published(job)] == [1, 2]
    endpoints.report(id, adapters={name(job, 2): {"path": "", "sha256": SHA}})
    look()
    assert states(job) == {1: "retired", 2: "live"}


def test_an_endpoint_that_comes_later_is_asked_for_a_version_once_it_has_loaded_it(store: str) -> None:
    job = line()
    one = up("one")
    published(job)
    look()
    bring_there(one)
    look()
    two = up("two")
    with db.reading() as session:
        assert [each.id for each in endpoints.ready(session, BASE, name(job, 1))] == [one]
    look()
    bring_there(two)
    with db.reading() as session:
        assert {each.id for each in endpoints.ready(session, BASE, name(job, 1))} == {one, two}


def test_all_versions_of_a_job_that_has_ended_are_retired(store: str) -> None:
    job = line()
    id = up()
    published(job)
    look()
    bring_there(id)
    look()
    published(job)
    kit.write("UPDATE step SET state = 'cancelled'")
    kit.write("UPDATE job SET state = 'cancelled'")
    look()
    look()
    assert states(job) == {1: "retired", 2: "retired"}
    assert row(id).desired["adapters"] == {}


def test_a_job_that_is_removed_takes_its_versions_along(store: str) -> None:
    job = line()
    published(job)
    kit.write("UPDATE job SET state = 'failed'")
    kit.write("DELETE FROM job")
    assert states(job) == {}


# -- many at once --------------------------------------------------------------------------------------------------------------


def test_players_publisher_and_worker_at_once_never_meet_a_missing_adapter(store: str) -> None:
    job = line()
    id = up()
    over = threading.Event()
    faults: list[str] = []
    seen: set[str] = set()

    def watched(work: Any) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - the test fails with it
                faults.append(repr(error))
            finally:
                if faults:
                    over.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def serve() -> None:
        while not over.is_set():
            bring_there(id)

    def schedule() -> None:
        while not over.is_set():
            look()

    def play(step: int) -> None:
        step_id, fence, chance = kit.steps(job.id)[step].id, 1, random.Random(step)
        while not over.is_set():
            with db.writing() as session:
                got = publish.take(session, job.id, step_id, fence)
            for _ in range(chance.randrange(1, 4) if got else 0):
                if got not in row(id).adapters:
                    faults.append(f"step {step} plays with {got}, and the endpoint has {list(row(id).adapters)}")
                seen.add(str(got))
            if chance.random() < 0.5:
                with db.writing() as session:
                    publish.let_go(session, step_id, fence)
            else:  # it is claimed anew
                fence += 1
                kit.write("UPDATE step SET fence = :fence WHERE id = :id", fence=fence, id=step_id)

    threads = [watched(serve), watched(schedule), *(watched(lambda step=step: play(step)) for step in range(3))]
    try:
        for version in range(1, 7):
            published(job)
            deadline = time.monotonic() + 30
            while states(job)[version] == "loading" and not faults and time.monotonic() < deadline:
                time.sleep(0.01)
            assert faults or states(job)[version] == "live"
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert faults == []
    assert len(seen) > 1
    look()
    bring_there(id)
    kit.write("UPDATE step SET state = 'succeeded' WHERE needs IS NOT NULL")
    look()
    assert states(job) == {**dict.fromkeys(range(1, 6), "retired"), 6: "live"}


# -- anything, in any order ----------------------------------------------------------------------------------------------------


class Publishing(RuleBasedStateMachine):
    """Two endpoints, four steps, one line; a model beside it knows who plays with what."""

    WORKERS = ("one", "two")

    def __init__(self) -> None:
        super().__init__()
        with db.writing() as session:
            for table in reversed(SQLModel.metadata.sorted_tables):
                session.connection().execute(table.delete())
        self.job = line()
        self.steps = [step.id for step in kit.steps(self.job.id)[:RUNNING]]
        self.fences = dict.fromkeys(self.steps, 1)
        self.plays: dict[str, str] = {}
        """Name of the version by the step that plays with it."""
        self.alive: dict[str, str] = {}
        """Endpoint by worker."""
        self.bad: set[str] = set()
        """Versions that no endpoint can load."""
        self.count = 0

    @initialize()
    def there_is_an_endpoint(self) -> None:
        self.begins("one")

    @rule(worker=st.sampled_from(WORKERS))
    def begins(self, worker: str) -> None:
        """A worker begins, or dies and begins anew: what it had loaded is gone, and so is what was being asked of it."""
        self.alive[worker] = up(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def stops(self, worker: str) -> None:
        if worker in self.alive:
            endpoints.stopped(self.alive.pop(worker))

    @rule(worker=st.sampled_from(WORKERS), at_once=st.integers(1, 3))
    def moves(self, worker: str, at_once: int) -> None:
        """A worker unloads what is not wanted, and loads some of what is."""
        if worker not in self.alive:
            return
        mine = row(self.alive[worker])
        wanted = mine.desired.get("adapters", {})
        gone = set(mine.adapters) - set(wanted)
        assert not gone & set(self.plays.values()), f"{gone} should be unloaded, and is played with"
        missing = [each for each in wanted if each not in mine.adapters][:at_once]
        for each in missing:
            if each in self.bad:
                endpoints.failed(mine.id, each, "it is bad", lasting=True)
        kept = {each: told for each, told in mine.adapters.items() if each in wanted}
        loaded = {each: {"path": "", "sha256": SHA} for each in missing if each not in self.bad}
        assert endpoints.report(mine.id, adapters={**kept, **loaded})

    @precondition(lambda self: self.count < 8)
    @rule(bad=st.sampled_from([False, False, False, True]))
    def publishes(self, bad: bool) -> None:
        self.count += 1
        assert published(self.job) == self.count
        if bad:
            self.bad.add(name(self.job, self.count))

    @rule()
    def looks(self) -> None:
        before = self._live()
        ready = self._ready()
        look()
        after = self._live()
        if after != before:
            assert after is not None
            assert ready, "a version went live, and nobody serves it"
            assert all(name(self.job, after) in each.adapters for each in ready)
            assert before is None or after > before

    @rule(step=st.integers(0, 3))
    def takes(self, step: int) -> None:
        id = self.steps[step]
        with db.writing() as session:
            got = publish.take(session, self.job.id, id, self.fences[id])
        live = self._live()
        assert got == self.plays.get(id, name(self.job, live) if live else None)
        if got is not None:
            self.plays[id] = got

    @rule(step=st.integers(0, 3))
    def lets_go(self, step: int) -> None:
        id = self.steps[step]
        with db.writing() as session:
            publish.let_go(session, id, self.fences[id])
        self.plays.pop(id, None)

    @rule(step=st.integers(0, 3))
    def is_claimed_anew(self, step: int) -> None:
        id = self.steps[step]
        self.fences[id] += 1
        kit.write("UPDATE step SET fence = fence + 1 WHERE id = :id", id=id)
        self.plays.pop(id, None)
        with pytest.raises(LostStep), db.writing() as session:
            publish.take(session, self.job.id, id, self.fences[id] - 1)

    @invariant()
    def what_is_played_with_stays(self) -> None:
        now = states(self.job)
        for each in self.plays.values():
            assert now[int(each.rpartition("-v")[2])] in ("live", "draining")
        assert list(now.values()).count("live") <= 1
        assert not {name(self.job, each) for each, state in now.items() if state in ("live", "draining")} & self.bad

    def _live(self) -> int | None:
        return next((version for version, state in states(self.job).items() if state == "live"), None)

    def _ready(self) -> list[Any]:
        with db.reading() as session:
            found = endpoints.ready(session, BASE)
            session.expunge_all()
            return found

    def teardown(self) -> None:
        """With workers that do their work and steps that end, the newest good version is live and nothing else is loaded."""
        for worker in self.WORKERS:
            if worker not in self.alive:
                self.begins(worker)
        for id in self.steps:
            self.lets_go(self.steps.index(id))
        for _ in range(2 * self.count + 3):  # one after the other: there is room for two
            self.looks()
            for worker in self.WORKERS:
                self.moves(worker, 99)
        self.looks()
        good = [version for version in range(1, self.count + 1) if name(self.job, version) not in self.bad]
        now = states(self.job)
        assert [version for version, state in now.items() if state == "live"] == good[-1:]
        assert {state for version, state in now.items() if version not in good[-1:]} <= {"retired", "failed"}
        for id in self.alive.values():
            assert list(row(id).adapters) == [name(self.job, version) for version in good[-1:]]


def run_machine(examples: int, moves: int) -> None:
    with kit.use_settings(SYNTHQ_ENDPOINT_HEARTBEAT_S="600"):  # on a busy machine time passes too
        run_state_machine_as_test(
            Publishing,
            settings=settings(
                max_examples=examples,
                stateful_step_count=moves,
                deadline=None,
                phases=[Phase.generate],
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_in_any_order_nobody_plays_with_what_is_not_there(store: str) -> None:
    run_machine(12, 40)


@pytest.mark.slow
def test_in_any_order_and_for_longer(sqlite_store: str) -> None:
    run_machine(40, 60)
