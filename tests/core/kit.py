"""What tests of the core share: waiting with a deadline, jobs and their rows, and real processes that are surely ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from sqlalchemy import select, text
from sqlmodel import col

from app import broker as broker_module
from app import claims, db, embedded_broker, lifecycle, specs
from app.leash import leashed
from app.models import ENDED, Episode, Job, JobEvent, Queue, Step, Worker
from app.settings import get_settings
from app.specs import RlSpec
from workers import runner
from workers.tasks import STEPS

WORKER = "worker-of-the-test"

T = TypeVar("T")
HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


def until(predicate: Callable[[], T], timeout_s: float, what: str) -> T:
    """Ask until the answer is true, and give it; fail the test with ``what`` when the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what} (last answer: {answer!r})")
        time.sleep(0.02)


@contextmanager
def short_folder(prefix: str) -> Iterator[Path]:
    """A folder with a path short enough for a unix socket in it."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def use_settings(**variables: str) -> Iterator[None]:
    """This process's settings, with these environment variables for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        yield
        db.dispose()
    get_settings.cache_clear()


# -- jobs ------------------------------------------------------------------------------------------------------------------


def submit(kind: str, spec: dict[str, Any], **more: Any) -> Job:
    """Submit a job with a spec as it is."""
    with db.writing() as session:
        return lifecycle.submit(session, kind=kind, spec=spec, spec_sha256="0" * 64, **more)


def submit_noop(steps: int = 1, **more: Any) -> Job:
    """Submit a job of ``steps`` steps that do nothing."""
    return submit("noop", {"steps": steps}, **more)


def submit_eval(seeds: str = "0-3", *, max_turns: int = 20, name: str | None = None, **table: Any) -> Job:
    """Submit a real eval, by default of the policy ``random``."""
    given = {"policies": ["random"], "seeds": seeds, "max_turns": max_turns} | table
    spec = specs.build({"kind": "eval", "eval": given})
    return submit("eval", specs.resolved(spec), name=name)


def small_rl(*layers: dict[str, dict[str, Any]]) -> RlSpec:
    """Two iterations of two groups of two, three turns each, tried on two seeds; tables of each layer lie over those before."""
    given: dict[str, Any] = {
        "kind": "rl",
        "model": {"base": "/m"},
        "rollout": {"max_turns": 3, "episodes_per_batch": 4, "max_concurrent_rollouts": 4, "episodes_per_step": 2},
        "training": {"iterations": 2, "group_size": 2, "batch_size": 2},
        "evaluation": {"seeds": "0-1", "every_n_iters": 1},
    }
    for tables in layers:
        given |= {name: given.get(name, {}) | table for name, table in tables.items()}
    spec = specs.build(given, env={})
    assert isinstance(spec, RlSpec)
    return spec


def claim(queue: Queue = Queue.ROLLOUT, owner: str = WORKER) -> claims.Claim:
    """Take a step as a worker would."""
    taken = claims.claim(queue, owner=owner)
    assert taken is not None, f"nothing waits in {queue}"
    return taken


def work_through() -> None:
    """Run everything that waits, as a worker would."""
    while any(_work(queue) for queue in (Queue.ROLLOUT, Queue.DATA)):
        pass


def _work(queue: Queue) -> bool:
    taken = claims.claim(queue, owner=WORKER)
    if taken is not None:
        runner.run_claim(taken, STEPS)
    return taken is not None


def job(job_id: str) -> Job:
    """The job's row as it is now."""
    with db.reading() as session:
        found = session.get(Job, job_id)
        assert found is not None, f"job {job_id} is not in the store"
        session.expunge(found)
        return found


def steps(job_id: str) -> list[Step]:
    """The job's steps of all attempts, in order."""
    with db.reading() as session:
        rows = session.scalars(select(Step).where(col(Step.job_id) == job_id).order_by(col(Step.position))).all()
        session.expunge_all()
        return list(rows)


def step(step_id: str) -> Step:
    """One step's row as it is now."""
    with db.reading() as session:
        found = session.get(Step, step_id)
        assert found is not None, f"step {step_id} is not in the store"
        session.expunge(found)
        return found


def job_events(job_id: str) -> list[JobEvent]:
    """The job's events, in order."""
    with db.reading() as session:
        rows = session.scalars(select(JobEvent).where(col(JobEvent.job_id) == job_id).order_by(col(JobEvent.seq))).all()
        session.expunge_all()
        return list(rows)


def played(job_id: str) -> dict[tuple[int, int], str | None]:
    """(seed, member) -> the trace's hash, of the episodes that were played to their end."""
    query = select(col(Episode.seed), col(Episode.member), col(Episode.sha256))
    query = query.where(col(Episode.job_id) == job_id, col(Episode.state) == "done")
    with db.reading() as session:
        return {(seed, member): sha256 for seed, member, sha256 in session.execute(query)}


def write(statement: str, **values: Any) -> int:
    """Change rows behind the core's back, as a fault would leave them; give how many."""
    with db.writing() as session:
        return int(session.connection().execute(text(statement), values).rowcount)


def ended(job_id: str) -> Job | None:
    """The job, if it has ended."""
    found = job(job_id)
    return found if found.state in ENDED else None


def live_workers() -> list[Worker]:
    """The workers that have registered and not stopped."""
    with db.reading() as session:
        rows = session.scalars(select(Worker).where(col(Worker.stopped_at).is_(None))).all()
        session.expunge_all()
        return list(rows)


# -- processes -------------------------------------------------------------------------------------------------------------


SHORT = {
    "SYNTHQ_LEASE_S": "3",
    "SYNTHQ_RENEW_S": "1",
    "SYNTHQ_WATCH_S": "0.2",
    "SYNTHQ_RECONCILE_S": "0.5",
    "SYNTHQ_POLL_S": "0.2",
    "SYNTHQ_HEARTBEAT_S": "0.5",
    "SYNTHQ_BACKOFF_S": "0.1",
}
"""Settings under which a fault is noticed within seconds."""


class Process:
    """A process in a group of its own, which ends with the test and with this process."""

    def __init__(self, argv: list[str], log: Path, **env: str) -> None:
        self.log = log
        path = os.pathsep.join([str(REPOSITORY), str(HERE.parent), *filter(None, [env.pop("PYTHONPATH", "")])])
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                leashed(argv), stdout=out, stderr=out, cwd=REPOSITORY, env=os.environ | env | {"PYTHONPATH": path},
                start_new_session=True,
            )  # fmt: skip
        self.pid = self._popen.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the process alone, and wait for its end."""
        self.send(signal.SIGKILL)
        self._popen.wait(10)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def wait(self, timeout_s: float) -> int:
        """Its exit status, waited for."""
        return self._popen.wait(timeout_s)

    def children(self) -> list[int]:
        """Pids of its direct children."""
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in listed.splitlines()]
        return [int(pid) for pid, parent, state in rows if int(parent) == self.pid and not state.startswith("Z")]

    def said(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        """SIGKILL to the whole group, whatever state it is in."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(10)


def python(*words: str, log: Path, **env: str) -> Process:
    """Start this Python with these words."""
    return Process([sys.executable, *words], log, **env)


class Broker:
    """The embedded broker as a process that tests may stop, freeze and empty."""

    def __init__(self, home: Path) -> None:
        self._log = home / "broker.log"
        self._process: Process | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = get_settings()
        embedded_broker.prepare(settings)
        self._process = Process(embedded_broker.command(settings, embedded_broker.find_binary()), self._log)
        embedded_broker.wait_until_ready(settings.broker_socket, alive=lambda: self.process.running)

    @property
    def process(self) -> Process:
        assert self._process is not None, "the broker was not started"
        return self._process

    @property
    def client(self) -> redis.Redis:
        """A client with patience."""
        return broker_module.client(20.0)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The server neither answers nor closes anything for a while."""
        self.process.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send(signal.SIGCONT)

    def end(self) -> None:
        """End it, whatever state it is in."""
        self.process.end()


def descendants(pid: int) -> list[int]:
    """Every process below one, the nearest first."""
    told = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in told.splitlines()]
    below = [pid]
    for known in below:
        below += [each for each, parent in parents if parent == known]
    return below[1:]


class System:
    """Schedulers and workers as real processes over one store and one broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.home = get_settings().home
        self.processes: list[Process] = []

    def _start(self, name: str, *words: str, **env: str) -> Process:
        process = python(*words, log=self.home / f"{name}-{len(self.processes)}.log", **env)
        self.processes.append(process)
        return process

    def scheduler(self, **env: str) -> Process:
        """Start a scheduler."""
        return self._start("scheduler", "-m", "app.scheduler", **env)

    def worker(self, slots: int = 1, **env: str) -> Process:
        """Start a rollout worker; its id is ``worker-<place>``."""
        env = {"SYNTHQ_WORKER_ID": f"worker-{len(self.processes)}"} | env
        return self._start("worker", "-m", "workers.main", "rollout", "--concurrency", str(slots), **env)

    def up(self, workers: int = 2, slots: int = 1, **env: str) -> list[Process]:
        """Start a scheduler and workers, and wait until they are ready; gives the workers."""
        self.scheduler(**env)
        started = [self.worker(slots, **env) for _ in range(workers)]
        until(lambda: self.all_run() and len(live_workers()) == workers, 60, "the workers are ready")
        return started

    def all_run(self) -> bool:
        """True while every process runs; else fails the test with what they said."""
        fallen = [f"{p.log.name} ended with {p.wait(1)}" for p in self.processes if not p.running]
        assert not fallen, f"{fallen}\n{self.said()}"
        return True

    def said(self) -> str:
        """What all of them wrote."""
        return "\n".join(f"-- {process.log.name}\n{process.said()}" for process in self.processes)

    def ended(self, job_id: str, timeout_s: float = 60) -> Job:
        """The job, waited for until it has ended."""
        found = until(lambda: ended(job_id), timeout_s, f"job {job_id} ends")
        assert found is not None
        return found

    def end(self) -> None:
        """End them all."""
        for process in self.processes:
            process.end()
