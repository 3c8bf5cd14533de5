"""What the durable core costs: submit to first step, and one no-op step, beside a bare Celery task on the same broker.

    python -m benchmarks.bench_queue [--submits 100] [--steps 300]

One worker of one slot. A durable step is claimed, leased, run and finished in SQLite, with a hint through Celery. A bare task
goes through the same broker to a Celery worker of one process, and answers by pushing to a list in that broker.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

from benchmarks.system import System, machine, percentile, save, scratch, submit, wait_for


def submit_to_first_step(submits: int) -> list[float]:
    """Milliseconds from the call that stores a job to the moment its first step was claimed, by the database's clock."""
    waits = []
    for _ in range(submits):
        job = wait_for(submit("noop", {"steps": 1}))
        waits.append((job.started_at - job.created_at) * 1e3)
    return waits


def step_times(steps: int) -> list[float]:
    """Milliseconds from one step's end to the next one's, in a job of many steps: everything that a step costs."""
    from sqlmodel import col, select

    from app import db
    from app.models import Step

    job_id = submit("noop", {"steps": steps})
    wait_for(job_id)
    with db.reading() as session:
        ends = sorted(session.exec(select(Step.finished_at).where(col(Step.job_id) == job_id)).all())
    return [(later - earlier) * 1e3 for earlier, later in pairwise(ends)]


BARE = """
import sys
from app import broker
celery = broker.celery
@celery.task(name="bench.noop")
def noop(at): broker.client(5.0).rpush("bench:done", at)
import workers.tasks
broker.celery.worker_main(["--quiet", "worker", "--hostname=bare@%h", "--queues=trainer", "--concurrency=1", "--without-gossip",
                           "--without-mingle", "--loglevel=WARNING"])
"""


def bare_times(system: System, tasks: int) -> tuple[list[float], list[float]]:
    """Milliseconds a bare task: one at a time from send to answer, and end to end when all are sent at once."""
    from app import broker

    process = subprocess.Popen([sys.executable, "-c", BARE], env=system.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = broker.client(30.0)
    try:

        def send(i: int) -> None:
            broker.celery.send_task("bench.noop", args=[i], queue="trainer")

        send(-1)
        client.blpop(["bench:done"], timeout=30)
        single = []
        for i in range(tasks):
            began = time.perf_counter()
            send(i)
            client.blpop(["bench:done"], timeout=30)
            single.append((time.perf_counter() - began) * 1e3)
        for i in range(tasks):
            send(i)
        ends = []
        for _ in range(tasks):
            client.blpop(["bench:done"], timeout=30)
            ends.append(time.perf_counter())
        return single, [(b - a) * 1e3 for a, b in pairwise(ends)]
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submits", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    print(machine())
    with scratch() as home, System(home, workers=1) as system:
        submit_to_first_step(5)
        first = submit_to_first_step(given.submits)
        steps = step_times(given.steps)
        single, stream = bare_times(system, given.steps)
    rows: list[tuple[str, list[float]]] = [
        ("submit to first step", first),
        ("bare Celery, send to answer", single),
        ("durable no-op step, in a stream", steps),
        ("bare Celery task, in a stream", stream),
    ]
    print(f"{'ms':34s}{'p50':>8s}{'p95':>8s}{'n':>6s}")
    figures: dict[str, Any] = {}
    for label, values in rows:
        print(f"{label:34s}{percentile(values, 0.5):8.2f}{percentile(values, 0.95):8.2f}{len(values):6d}")
        figures[label] = values
    save("queue", figures)


if __name__ == "__main__":
    main()
