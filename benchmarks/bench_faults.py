"""The same spec undisturbed, with a rollout worker killed, and with the broker flushed: same traces? How soon did it go on?

    python -m benchmarks.bench_faults [--seeds 12] [--lease 60]

SIGKILL goes to a worker, its pool process included, in the middle of a step. ``alone``: only the lease notices. ``synthq up``:
the supervisor sees the process end and gives its steps back. FLUSHALL wipes the broker with hints in it. Traces are compared turn
by turn: frame hashes, actions, rewards, replies.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.system import System, job_of, machine, save, scratch, submit, until, wait_for

Trace = dict[tuple[int, int, int], list[Any]]


def spec(seeds: int) -> dict[str, Any]:
    """Scripted and random play, in steps of two episodes."""
    return {"eval": {"seeds": f"0-{seeds - 1}", "policies": ["scripted", "random"], "episodes_per_step": 2}}


def traces(job_id: str) -> Trace:
    """Every episode of a job, turn by turn, without times."""
    from sqlmodel import col, select

    from app import db
    from app.models import Episode, TurnRow

    with db.reading() as session:
        found: Trace = {}
        for e in session.exec(select(Episode).where(col(Episode.job_id) == job_id)).all():
            turns = session.exec(select(TurnRow).where(col(TurnRow.episode_id) == e.id).order_by(col(TurnRow.index))).all()
            rows = [(t.index, t.frame, t.actions, t.rewards, t.reply, t.unlocked) for t in turns]
            found[(e.iteration, e.seed, e.member)] = [e.state, e.sha256, e.last_frame, e.achievements, rows]
    return found


def running_step(job_id: str, owner: str | None = None) -> Any:
    """A step of the job that runs now, by a given worker if one is named."""
    from sqlmodel import col, select

    from app import db
    from app.models import Step

    query = select(Step).where(col(Step.job_id) == job_id, col(Step.state) == "running", col(Step.kind) == "play")
    with db.reading() as session:
        return session.exec(query.where(col(Step.owner) == owner) if owner else query).first()


def step(step_id: str) -> Any:
    """A step's row as it is now."""
    from app import db
    from app.models import Step

    with db.reading() as session:
        return session.get(Step, step_id)


def half_done(job_id: str, episodes: int) -> None:
    """Wait until a third of the episodes are stored."""
    from sqlmodel import col, func, select

    from app import db
    from app.models import Episode

    def enough() -> bool:
        with db.reading() as session:
            return session.exec(select(func.count()).where(col(Episode.job_id) == job_id)).one() >= episodes // 3

    until(enough, "a third of the episodes", 300)


def kill(job_id: str, pid: int, owner: str) -> dict[str, float]:
    """SIGKILL a worker that holds a step; seconds until that step was claimed again."""
    held = until(lambda: running_step(job_id, owner), f"{owner} holds a step", 120)
    os.killpg(os.getpgid(pid), signal.SIGKILL)
    began = time.monotonic()
    until(lambda: step(held.id).fence > held.fence, "the lost step is claimed again", 300)
    return {"lost_step_claimed_again_s": time.monotonic() - began}


def flush(job_id: str) -> dict[str, float]:
    """FLUSHALL; seconds until the next step was claimed."""
    from sqlmodel import col, func, select

    from app import broker, db
    from app.models import Step

    def claims() -> int:
        with db.reading() as session:
            return session.exec(select(func.coalesce(func.sum(col(Step.fence)), 0)).where(col(Step.job_id) == job_id)).one()

    before = claims()
    broker.client(5.0).flushall()
    began = time.monotonic()
    until(lambda: claims() > before, "a step is claimed after the flush", 120)
    return {"next_claim_s": time.monotonic() - began}


def up(system: System) -> dict[str, Any]:
    """Start ``synthq up`` on the system's home; its state file."""
    subprocess.run(
        [sys.executable, "-m", "app.supervisor", "up", "--detach", "--no-flower"], env=system.env, check=True, capture_output=True
    )
    return json.loads((Path(system.env["SYNTHQ_HOME"]) / "run" / "supervisor.json").read_text())


def workers_of(state: dict[str, Any]) -> list[tuple[str, int]]:
    """Worker ids and pids in the supervisor's state file."""
    return [(p["worker_id"], p["pid"]) for p in state["processes"].values() if p.get("worker_id")]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--lease", type=float, default=60.0, help="lease in seconds; renewed at a third of it")
    given = parser.parse_args()
    print(machine())
    episodes = 2 * given.seeds
    lease = {"SYNTHQ_LEASE_S": str(given.lease), "SYNTHQ_RENEW_S": str(given.lease / 3)}
    figures: dict[str, Any] = {}

    def report(label: str, job_id: str, wanted: Trace, **numbers: float) -> None:
        job, found = wait_for(job_id), traces(job_id)
        turns = sum(len(episode[4]) for episode in found.values())
        same = sum(found.get(key) == wanted[key] for key in wanted)
        figures[label] = {
            "state": job.state,
            "same": same,
            "of": len(wanted),
            "seconds": job.finished_at - job.started_at,
            **numbers,
        }
        extra = ", ".join(f"{name.replace('_', ' ').removesuffix(' s')} after {value:.1f} s" for name, value in numbers.items())
        print(
            f"{label:34s}{job.state}, {same} of {len(wanted)} episodes identical, {len(found) - len(wanted)} too many, "
            f"{turns} turns, {job.finished_at - job.started_at:.1f} s{'; ' + extra if extra else ''}",
            flush=True,
        )

    with scratch() as home:
        with System(home, workers=2, env=lease) as system:
            calm = submit("eval", spec(given.seeds))
            wait_for(calm)
            wanted = traces(calm)
            report("undisturbed", calm, wanted)

            job_id = submit("eval", spec(given.seeds))
            half_done(job_id, episodes)
            numbers = kill(job_id, system.processes["rollout-1"].pid, "rollout-1")
            report(f"worker killed, alone (lease {given.lease:g} s)", job_id, wanted, **numbers)
            system.worker("rollout-3")

            job_id = submit("eval", spec(given.seeds))
            half_done(job_id, episodes)
            report("FLUSHALL", job_id, wanted, **flush(job_id))
        state = up(system)
        try:
            job_id = submit("eval", spec(given.seeds))
            half_done(job_id, episodes)
            owner, pid = workers_of(state)[0]
            report("worker killed, synthq up", job_id, wanted, **kill(job_id, pid, owner))
            assert job_of(job_id).state == "succeeded"
        finally:
            subprocess.run([sys.executable, "-m", "app.supervisor", "down"], env=system.env, check=True, capture_output=True)
    save("faults", figures)


if __name__ == "__main__":
    main()
