"""What the benchmarks of served models share: `synthq up` in a private home, a tiny model, and what its processes take."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.system import CLEAR, free_port, scratch, until, wait_for

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ROLES = {
    "engine": "workers.inference.server",
    "rollout": "workers.main rollout",
    "inference": "workers.main inference",
    "trainer": "workers.main trainer",
    "learner": "workers.trainer.child",
    "api": "app.main",
    "scheduler": "app.scheduler",
    "broker": "app.embedded_broker|valkey-server|redis-server",
}
"""Words in the command line of each kind of process."""
SHORT = {"use_vision": True, "image_only_mode": True, "rules": "none", "max_actions": 1, "max_tokens": 4}
"""A prompt of one picture and little else."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Of several processes on few cores, each does best with one thread."""


@contextmanager
def tiny(given: str | None) -> Iterator[Path]:
    """The model in a folder that was given, or a new tiny one."""
    if given:
        yield Path(given).absolute()
        return
    with scratch() as folder:
        subprocess.run([sys.executable, "-m", "workers.init_tiny", "tiny", str(folder / "tiny")], check=True, capture_output=True)
        yield folder / "tiny"


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What the processes of one kind have taken so far."""

    cpu_s: float
    rss_mb: float


class Up:
    """A whole system, as a user has it, and its store."""

    def __init__(self, home: Path, *, rollout: int, inference: int, env: dict[str, str]) -> None:
        self.home = home
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("SYNTHQ_") and k not in CLEAR}
        port = free_port()
        self._env |= {"SYNTHQ_HOME": str(home), "SYNTHQ_TASK_APP_PORT": "0", "SYNTHQ_API_PORT": str(port), **ONE_THREAD, **env}
        os.environ |= {k: v for k, v in self._env.items() if k.startswith("SYNTHQ_")}
        self._words = ["--workers", f"rollout={rollout}", "--workers", f"inference={inference}", "--no-flower", "--detach"]
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    def __enter__(self) -> Up:
        from app import broker, db, settings

        settings.get_settings.cache_clear()
        db.dispose()
        broker.client.cache_clear()
        self._synthq("up", *self._words)
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._synthq("down")

    def _synthq(self, *words: str) -> None:
        ran = subprocess.run([sys.executable, "-m", "cli.main", *words], env=self._env, capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(f"synthq {' '.join(words)} ended with {ran.returncode}: {ran.stderr or ran.stdout}")

    def submit(self, **table: Any) -> str:
        """Submit an eval over the API; its id."""
        return self.post({"kind": "eval", "eval": table})

    def post(self, spec: dict[str, Any]) -> str:
        """Submit a job over the API; its id."""
        answer = self._http.post("/v1/jobs", json={"kind": spec["kind"], "spec": spec})
        if answer.status_code != 202:
            raise RuntimeError(f"the job was refused: {answer.text}")
        return str(answer.json()["id"])

    def play(self, **table: Any) -> str:
        """Submit an eval and wait for its end, which must be a good one; its id."""
        job_id = self.submit(**table)
        ended = wait_for(job_id)
        if ended.state != "succeeded":
            raise RuntimeError(f"job {job_id} {ended.state}: {ended.reason}\n{self.said('inference')}")
        return job_id

    def ready(self, count: int) -> list[Any]:
        """The endpoints that are ready, once there are so many."""
        from app import db, endpoints

        def found() -> list[Any]:
            with db.reading() as session:
                rows = [row for row in endpoints.live(session) if row.state == "ready"]
                session.expunge_all()
                return rows

        until(lambda: len(found()) >= count, f"{count} endpoints are ready\n{self.said('inference')}", 120)
        return found()

    def pids(self, role: str) -> list[int]:
        """Processes of this home of one kind."""
        return [pid for pid, words in _processes(self.home) if re.search(ROLES[role], words)]

    def taken(self) -> dict[str, Taken]:
        """What the processes of each kind have taken."""
        return {role: _taken(self.pids(role)) for role in ROLES}

    @contextmanager
    def stopped(self, role: str) -> Iterator[None]:
        """The processes of one kind stand still for a while."""
        pids = self.pids(role)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def said(self, name: str) -> str:
        """The end of the logs of a kind of process."""
        logs = sorted((self.home / "logs").glob(f"*{name}*"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)


@contextmanager
def up(*, rollout: int, inference: int, **env: str) -> Iterator[Up]:
    """A system in a home of its own, ended with everything in it."""
    with scratch() as home:
        system = Up(home, rollout=rollout, inference=inference, env=env)
        try:
            with system:
                yield system
        except BaseException:
            kept = Path("out/benchmarks/logs")
            shutil.copytree(home / "logs", kept, dirs_exist_ok=True)
            sys.stderr.write(f"the logs are kept in {kept}\n")
            raise


def _processes(home: Path) -> Iterator[tuple[int, str]]:
    mark = f"SYNTHQ_HOME={home}\0".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes() + b"\0":
                yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


def _taken(pids: Sequence[int]) -> Taken:
    cpu = rss = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        cpu += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        rss += int(found[1]) / 1024 if found else 0.0
    return Taken(cpu_s=cpu, rss_mb=rss)


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one job came to."""

    seconds: float
    """From its first step's beginning to its last episode's end, by the database's clock."""
    turns: int
    parts: dict[str, float]
    """Milliseconds a turn, as its episode saw it, by part."""
    prompt_tokens: float
    image_tokens: float
    reply_tokens: float
    prefix_tokens: float
    outcomes: dict[str, int]


def measured(job_id: str) -> Round:
    """What a job came to, from the store."""
    from sqlmodel import col, select

    from app import db
    from app.models import Episode, Job, TurnRow

    with db.reading() as session:
        job = session.get_one(Job, job_id)
        rows = session.exec(select(Episode).where(col(Episode.job_id) == job_id)).all()
        ids = [row.id for row in rows]
        replies = [turn.reply for turn in session.exec(select(TurnRow).where(col(TurnRow.episode_id).in_(ids)))]
        began = job.started_at or job.created_at
    turns = sum(row.turns for row in rows)
    parts: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for row in rows:
        parts.update(row.timings)
        outcomes.update(row.outcomes)
    usage: Counter[str] = Counter()
    for reply in replies:
        usage.update({name: count or 0 for name, count in reply["notes"].get("usage", {}).items()})
    return Round(
        seconds=max(row.finished_at or began for row in rows) - began,
        turns=turns,
        parts={name: ms / turns for name, ms in parts.items()},
        prompt_tokens=usage["input_tokens"] / turns,
        image_tokens=usage["image_tokens"] / turns,
        reply_tokens=usage["output_tokens"] / turns,
        prefix_tokens=usage["prefix_tokens"] / turns,
        outcomes=dict(outcomes),
    )
