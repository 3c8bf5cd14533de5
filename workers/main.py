"""A worker process of one role: a Celery worker with a heartbeat in the store.

python -m workers.main rollout [--concurrency N]
python -m workers.main inference
python -m workers.main trainer
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import socket
import sys
import threading
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from celery import signals
from celery.exceptions import SecurityWarning
from sqlalchemy.exc import OperationalError

from app import broker, claims, heartbeat, migrate
from app.errors import InvalidInput, NotHere, SynthqError, UnknownName
from app.logs import set_up_logging
from app.models import Queue
from app.settings import get_settings

log = logging.getLogger("synthq.worker")

MEMORY_LIMIT_KB = 2_000_000
"""A rollout process that has grown beyond this is replaced after its step."""
LAST_BEAT_S = 5.0
"""How long a worker that ends waits for a heartbeat on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a worker of one kind serves, and how."""

    queues: tuple[Queue, ...]
    package: str
    """The package that does the work; a role whose package is not there cannot be started."""
    slots: int = 1
    resident: str = ""
    """``module:function`` that gives what the main process looks after beside Celery. Such a worker is one process and has one
    slot, so that what it looks after ends with it."""


ROLES = {
    "rollout": Role(queues=(Queue.ROLLOUT, Queue.DATA), package="workers.rollout"),
    "inference": Role(queues=(Queue.INFERENCE,), package="workers.inference", resident="workers.inference.supervisor:make"),
    "trainer": Role(queues=(Queue.TRAINER,), package="workers.trainer", resident="workers.trainer.resident:make"),
}


def role_named(name: str) -> Role:
    """A role that can be started here. Raises UnknownName or NotHere."""
    if name not in ROLES:
        raise UnknownName("worker role", name, ROLES)
    if find_spec(ROLES[name].package) is None:
        have = ", ".join(known for known, role in ROLES.items() if find_spec(role.package))
        raise NotHere(f"this release has no {name} worker yet; it has {have}")
    return ROLES[name]


class Resident(Protocol):
    """What a worker's main process looks after in threads of its own."""

    def start(self) -> None:
        """Begin."""

    def drain(self) -> None:
        """Take nothing new from now on. Returns at once: a signal handler calls it."""

    def stop(self) -> None:
        """Finish what is under way, as far as the time allows, and end everything that was started."""


def resident_of(role: Role, worker_id: str) -> Resident | None:
    """What the worker looks after; raises what keeps it from being done here."""
    if not role.resident:
        return None
    module, _, name = role.resident.partition(":")
    made: Resident = getattr(import_module(module), name)(worker_id)
    return made


class Heart:
    """A thread of the worker's main process that beats in the store until it is stopped."""

    def __init__(self, worker_id: str, role: str, queues: list[str], slots: int) -> None:
        self._id, self._role, self._queues, self._slots = worker_id, role, queues, slots
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="synthq-heart", daemon=True)

    def start(self) -> None:
        """Register and begin to beat."""
        self._register()
        self._thread.start()

    def stop(self) -> None:
        """Write that the worker has ended."""
        self._stop.set()
        if self._thread.is_alive():  # a beat on its way would say again that the worker lives
            self._thread.join(LAST_BEAT_S)
        heartbeat.stopped(self._id)

    def _register(self) -> None:
        heartbeat.register(self._id, role=self._role, queues=self._queues, slots=self._slots)

    def _run(self) -> None:
        while not self._stop.wait(get_settings().heartbeat_s):
            try:
                if not heartbeat.beat(self._id):
                    self._register()
            except OperationalError as error:
                log.warning("heartbeat not written: %s", error.orig)


def connect(role_name: str, role: Role, slots: int, resident: Resident | None) -> None:
    """Tie the worker's life to the store: heartbeat, drain flag, its resident, and steps of pool processes that die."""
    from workers.runner import drain_file, worker_id

    heart = Heart(worker_id(), role_name, [str(queue) for queue in role.queues], slots)

    @signals.worker_ready.connect(weak=False)
    def ready(**_: Any) -> None:
        drain_file().unlink(missing_ok=True)
        heart.start()
        if resident is not None:
            resident.start()
        broker.nudge()
        log.info("worker %s ready: %s, %s slots", worker_id(), ", ".join(role.queues), slots)

    @signals.worker_shutting_down.connect(weak=False)
    def shutting_down(**_: Any) -> None:
        drain_file().parent.mkdir(parents=True, exist_ok=True)
        drain_file().touch()
        if resident is not None:
            resident.drain()

    @signals.worker_shutdown.connect(weak=False)
    def shut_down(**_: Any) -> None:
        if resident is not None:
            resident.stop()
        heart.stop()
        drain_file().unlink(missing_ok=True)
        log.info("worker %s stopped", worker_id())

    @signals.task_failure.connect(weak=False)
    def failed(task_id: str = "", exception: BaseException | None = None, **_: Any) -> None:
        # Only what ends the pool process comes here: run_claim turns everything else into a reason in the store.
        if claims.release_hint(task_id, f"its process died ({exception})"):
            broker.nudge()

    @signals.setup_logging.connect(weak=False)
    def logging_is_ours(**_: Any) -> None:
        set_up_logging()


def arguments(role: Role, slots: int, name: str) -> list[str]:
    """Celery's command line for a worker of this role."""
    pool = ["--pool=solo"] if role.resident else ["--pool=prefork", f"--max-memory-per-child={MEMORY_LIMIT_KB}"]
    return [
        "--quiet",
        "worker",
        "--hostname=" + name + "@%h",
        "--queues=" + ",".join(role.queues),
        f"--concurrency={slots}",
        *pool,
        "--without-gossip",
        "--without-mingle",
        "--loglevel=WARNING",
    ]


def main() -> None:
    """Run a worker until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m workers.main", description="Run a synthq worker.")
    parser.add_argument("role", help=f"one of {', '.join(ROLES)}")
    parser.add_argument("--concurrency", type=int, default=None, help="steps that it runs at once, each in a process of its own")
    given = parser.parse_args()
    try:
        role = role_named(given.role)
        slots = role.slots if given.concurrency is None else given.concurrency
        if slots < 1:
            raise InvalidInput(f"--concurrency is {slots}; a worker needs at least 1 slot")
        if role.resident and slots != role.slots:
            raise InvalidInput(
                f"--concurrency is {slots}; a worker of role {given.role} has one slot: start {slots} of them instead"
            )
        set_up_logging()
        os.environ.setdefault("SYNTHQ_WORKER_ID", f"{given.role}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}")
        resident = resident_of(role, os.environ["SYNTHQ_WORKER_ID"])
        migrate.upgrade()
    except SynthqError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(error.exit_code) from None
    connect(given.role, role, slots, resident)
    # The warning is about pickled messages read as root; these are JSON and hold ids only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    from workers import tasks  # noqa: F401 - registers the tasks

    broker.celery.worker_main(arguments(role, slots, os.environ["SYNTHQ_WORKER_ID"]))


if __name__ == "__main__":
    main()
