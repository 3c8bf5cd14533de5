"""What the benchmarks share: a private system of real processes, and figures with their spread."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

CLEAR = ("PYTHONPATH", "VIRTUAL_ENV")


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(holds: Callable[[], Any], what: str, timeout_s: float = 120.0, every_s: float = 0.005) -> Any:
    """The first true answer of ``holds``. Raises TimeoutError that says what did not happen."""
    deadline = time.monotonic() + timeout_s
    while not (answer := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(every_s)
    return answer


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range, such as ``1.52 (1.40 to 1.75)``."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class System:
    """Broker, scheduler and workers as real processes over a private home, without a supervisor that would help them."""

    def __init__(self, home: Path, *, workers: int = 0, env: dict[str, str] | None = None) -> None:
        self.home = home
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("SYNTHQ_") and k not in CLEAR}
        self.env |= {"SYNTHQ_HOME": str(home), "SYNTHQ_API_PORT": str(free_port()), **(env or {})}
        os.environ |= {k: v for k, v in self.env.items() if k.startswith("SYNTHQ_")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._workers = workers

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start ``python -m words`` under ``name``, its output in a log below the home."""
        (self.home / "logs").mkdir(exist_ok=True, parents=True)
        with (self.home / "logs" / f"{name}.log").open("ab") as log:
            env = self.env | {"SYNTHQ_WORKER_ID": name}
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *words], env=env, stdout=log, stderr=log, start_new_session=True
            )
        return self.processes[name]

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        """Start a rollout worker and wait until the store knows it."""
        from app import db, heartbeat

        process = self.start(name, "workers.main", "rollout")

        def known() -> bool:
            with db.reading() as session:
                return any(worker.id == name for worker in heartbeat.live_workers(session))

        until(known, f"worker {name} is ready", 60)
        return process

    def __enter__(self) -> System:
        from app import broker, db, migrate, settings

        settings.get_settings.cache_clear()
        db.dispose()
        broker.client.cache_clear()
        self.start("broker", "app.embedded_broker")
        migrate.upgrade()
        until(_answers, "the broker answers", 20)
        self.start("scheduler", "app.scheduler")
        for number in range(self._workers):
            self.worker(f"rollout-{number + 1}")
        return self

    def __exit__(self, *_: object) -> None:
        for name, process in reversed(self.processes.items()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM if name != "broker" else signal.SIGKILL)
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            if process.poll() is None:
                process.kill()
                process.wait()


def _answers() -> bool:
    from app import broker
    from app.errors import BrokerUnavailable

    try:
        broker.ping()
    except BrokerUnavailable:
        return False
    return True


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is removed afterwards; short, since a unix socket lives below it."""
    folder = Path(tempfile.mkdtemp(prefix="sq-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def submit(kind: str, tables: dict[str, Any]) -> str:
    """Store a job as the API does, and nudge; give its id."""
    from app import broker, db, lifecycle, specs

    if kind == "noop":
        spec, sha256 = tables, ""
    else:
        parsed = specs.build({"kind": kind, **tables})
        spec, sha256 = specs.resolved(parsed), specs.sha256(parsed)
    with db.writing() as session:
        job = lifecycle.submit(session, kind=kind, spec=spec, spec_sha256=sha256)
    broker.nudge()
    return job.id


def job_of(job_id: str) -> Any:
    """The job's row as it is now."""
    from app import db
    from app.models import Job

    with db.reading() as session:
        return session.get(Job, job_id)


def wait_for(job_id: str, timeout_s: float = 600.0) -> Any:
    """The job's row once it has ended."""
    from app.models import ENDED

    until(lambda: job_of(job_id).state in ENDED, f"the end of job {job_id}", timeout_s, every_s=0.02)
    return job_of(job_id)


def machine() -> str:
    """One line that says what was measured on."""
    import platform

    cpu = (
        next(
            (
                line.partition(":")[2].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.processor(),
        )
        if Path("/proc/cpuinfo").exists()
        else platform.processor()
    )
    return f"{os.cpu_count()} cores of {cpu or 'an unnamed processor'}, Python {platform.python_version()}, {platform.system()}"


def save(name: str, figures: dict[str, Any]) -> None:
    """Keep the figures as JSON in out/benchmarks, for whoever wants more than the table."""
    folder = Path("out/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
