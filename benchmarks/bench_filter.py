"""What every key of a filter removes from a store of real play, how long it takes, and whether memory grows with the lines.

    python -m benchmarks.bench_filter [--episodes 500] [--turns 150] [--keys-on 40]

Plays the episodes first: the expert in its three views, random play, and a policy that makes a model's mistakes, whose seeds that
end in 3 break; in two splits, two tasks, and a job whose time runs out. Then it turns on one key at a time, over a filter that
removes nothing, on the first ``--keys-on`` episodes. Then it filters all, twice, and a fifth of them, each in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import sloppy
from benchmarks.system import machine, save, scratch

PROCESSES = 2
JUDGE = "pace"
NAMES = ("several", "second", "hurried")
"""The jobs: five policies on the seeds of ``train``, two on those of ``test``, two against the clock."""
PLAYERS = ("scripted:visible", "scripted:omniscient", "scripted:reactive", "random", sloppy.NAME)
OPEN = {"filter_errors": False, "outcomes_ok_only": False}
"""A filter that removes nothing."""


def seeds_of(episodes: int) -> tuple[int, int, int]:
    """How many seeds each job has."""
    several = max(2, episodes * 4 // 25)
    second = max(2, episodes * 4 // 50)
    return several, second, max(1, (episodes - 5 * several - 2 * second) // 2)


def evals(episodes: int, turns: int) -> list[dict[str, Any]]:
    """The specs of the three jobs."""
    several, second, hurried = seeds_of(episodes)
    common = {"max_turns": turns, "episodes_per_step": 5}
    first, then = several + second, several + second + hurried
    tables = [
        {"policies": PLAYERS, "seeds": f"0-{several - 1}", "task_id": "survive"},
        {"policies": ["scripted:visible", sloppy.NAME], "seeds": f"{several}-{first - 1}", "split": "test", "task_id": "explore"},
        {"policies": ["random", sloppy.NAME], "seeds": f"{first}-{then - 1}", "max_time_s": 0.02},
    ]
    return [{"name": name, "eval": {**common, **table}} for name, table in zip(NAMES, tables, strict=True)]


def submit(kind: str, tables: dict[str, Any]) -> str:
    """Store a job; gives its id."""
    from app import db, lifecycle, specs

    spec = specs.build({"kind": kind, **tables})
    with db.writing() as session:
        resolved, sha256 = specs.resolved(spec), specs.sha256(spec)
        return lifecycle.submit(session, kind=kind, spec=resolved, spec_sha256=sha256, name=spec.name).id


def work(owner: str) -> None:
    """Work through everything that waits, in this process."""
    from app import claims
    from app.models import Queue
    from workers import runner
    from workers.rollout import policies
    from workers.tasks import STEPS

    os.environ["SYNTHQ_WORKER_ID"] = owner
    policies.POLICIES[sloppy.NAME] = sloppy.PLACE
    for queue in (Queue.ROLLOUT, Queue.DATA):
        while (claim := claims.claim(queue, owner=owner)) is not None:
            runner.run_claim(claim, STEPS)


def play(episodes: int, turns: int) -> int:
    """Fill the store; gives the number of turns."""
    from sqlmodel import select

    from app import db, migrate
    from app.models import Episode

    migrate.upgrade()
    for tables in evals(episodes, turns):
        submit("eval", tables)
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(work, [f"bench-{i}" for i in range(PROCESSES)], chunksize=1)
    work("bench")  # the reports, and what the two left
    with db.writing() as session:
        rows = session.exec(select(Episode)).all()
        for row in rows:
            row.scores = {JUDGE: row.unlocked / max(row.turns, 1)} if row.seed % 2 == 0 else None
        print(f"{len(rows)} episodes, {sum(row.turns for row in rows)} turns", end="")
        print(f"; {sum(row.state == 'failed' for row in rows)} failed, {sum(row.ended == 'time' for row in rows)} out of time")
        return sum(row.turns for row in rows)


def run(tables: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Filter, in this process; gives the summary (or the reason, where nothing was left) and the seconds."""
    from app import db
    from app.models import Job

    job_id = submit("filter", {"filter": tables})
    began = time.perf_counter()
    work("bench")
    seconds = time.perf_counter() - began
    with db.reading() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job.summary or {"reason": job.reason}, seconds


def middle(values: list[Any]) -> Any:
    """The value in the middle."""
    return sorted(values)[len(values) // 2]


def keys(base: dict[str, Any], tokens: int) -> list[tuple[str, dict[str, Any]]]:
    """Every key, with a value that bites here."""
    from sqlmodel import select

    from app import db
    from app.models import Episode
    from app.specs import parse_seeds

    with db.reading() as session:
        wanted = parse_seeds(base["seeds"])
        rows = [row for row in session.exec(select(Episode)) if row.turns and row.seed in wanted]
    unlocked, steps = [row.unlocked for row in rows], [row.turns for row in rows]
    born = [row.created_at for row in rows]
    return [
        ("jobs", {"jobs": [NAMES[1]]}),
        ("policies", {"policies": ["scripted"]}),
        ("models", {"models": ["sloppy-1b"]}),
        ("splits", {"splits": ["test"]}),
        ("task_ids", {"task_ids": ["survive"]}),
        ("seeds", {"seeds": "0-1"}),
        ("min_created_at", {"min_created_at": middle(born)}),
        ("max_created_at", {"max_created_at": middle(born)}),
        ("min_official_score", {"min_official_score": middle(unlocked) + 0.5}),
        ("max_official_score", {"max_official_score": middle(unlocked)}),
        ("min_judge_scores", {"min_judge_scores": {JUDGE: 0.03}}),
        ("max_judge_scores", {"max_judge_scores": {JUDGE: 0.03}}),
        ("min_return", {"min_return": middle(unlocked) + 0.5}),
        ("max_return", {"max_return": middle(unlocked)}),
        ("min_steps", {"min_steps": max(steps)}),
        ("max_steps", {"max_steps": max(steps) - 1}),
        ("min_achievements", {"min_achievements": middle(unlocked) + 1}),
        ("max_achievements", {"max_achievements": middle(unlocked)}),
        ("achievements", {"achievements": ["collect_wood", "collect_sapling"]}),
        ("filter_errors", {"filter_errors": True}),
        ("filter_timeouts", {"filter_timeouts": True}),
        ("detect_loops", {"detect_loops": True}),
        ("max_repeated_actions", {"max_repeated_actions": 3}),
        ("min_unique_states", {"min_unique_states": 30}),
        ("top_share", {"top_share": 0.25}),
        ("outcomes_ok_only", {"outcomes_ok_only": True}),
        ("turns.drop_empty", {"turns": {"drop_empty": True}}),
        ("turns.drop_noops", {"turns": {"drop_noops": True}}),
        ("turns.before_unlock", {"turns": {"before_unlock": 10}}),
        ("turns.top_share", {"turns": {"top_share": 0.2}}),
        ("relabel", {"relabel": "scripted:visible"}),
        ("rationales", {"rationales": True, "policies": ["scripted"]}),
        ("max_sequence_length", {"max_sequence_length": tokens}),
        ("deduplicate", {"deduplicate": True}),
        ("conflicts", {"conflicts": "best"}),
        ("sample", {"sample": {"by": "reward", "lines": 2000}}),
        ("sample", {"sample": {"by": "achievement", "lines": 2000}}),
        ("shuffle", {"shuffle": True, "shuffle_seed": 7}),
        ("offset", {"offset": 500}),
        ("limit", {"limit": 500}),
        ("split", {"split": {"enabled": True, "val_fraction": 0.2}}),
        ("include_images", {"include_images": False}),
        ("include_metadata", {"include_metadata": False}),
    ]


def one_by_one(episodes: int) -> list[dict[str, Any]]:
    """Turn on each key alone, and print what it removed."""
    base = {**OPEN, "seeds": _seeds_for(episodes)}
    plain, plain_s = run(base)
    print(f"\nwithout any key: {plain['turns']['read']} turns of {plain['episodes']['kept']} episodes, seeds {base['seeds']}")
    print(f"{'key':<22}{'value':<42}{'removed':>20}{'lines':>9}{'MB':>8}{'s':>7}")
    print(f"{'(none)':<22}{'':<42}{'':>20}{plain['lines']:>9}{plain['bytes'] / 1e6:>8.1f}{plain_s:>7.2f}")
    figures = []
    for key, given in keys(base, plain["tokens"] // plain["lines"]):
        summary, seconds = run({**base, **given})
        value = json.dumps(given.get(key.partition(".")[0], given))
        removed = _removed(summary, key)
        if "reason" in summary:
            print(f"{key:<22}{value:<42}{summary['reason']}")
        else:
            size = summary["bytes"] / 1e6
            print(f"{key:<22}{value[:41]:<42}{removed:>20}{summary['lines']:>9}{size:>8.1f}{seconds:>7.2f}")
        figures.append({"key": key, "value": value, "removed": removed, "lines": summary.get("lines"), "seconds": seconds})
    return figures


def _seeds_for(episodes: int) -> str:
    """Seeds of all three jobs, with a broken one, that make about so many episodes."""
    several, second, hurried = _counts()
    each = max(1, episodes // 10)
    parts = [(0, several, each), (several, second, each), (several + second, hurried, each)]
    return ",".join(f"{start}-{start + min(count, most) - 1}" for start, count, most in parts)


def _counts() -> tuple[int, int, int]:
    from app import db
    from app.specs import parse_seeds
    from app.store import jobs

    with db.reading() as session:
        several, second, hurried = (len(parse_seeds(jobs.find(session, name).spec["eval"]["seeds"])) for name in NAMES)
    return several, second, hurried


def _removed(summary: dict[str, Any], key: str) -> str:
    """What the key removed: ``12 episodes``."""
    found = {
        unit: number for unit, by_key in summary.get("removed", {}).items() for k, number in by_key.items() if k.startswith(key)
    }
    return ", ".join(f"{number} {unit}" for unit, number in found.items()) or "-"


def fresh(tables: dict[str, Any]) -> dict[str, Any]:
    """Filter in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.bench_filter", "--child", json.dumps(tables)]
    return dict(json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def peak_mb() -> float:
    """Most memory that this program has had at once. Not ``ru_maxrss`` where that can be helped: it begins with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(tables: dict[str, Any]) -> None:
    """Filter once; print figures as JSON. Memory in MB."""
    import workers.rollout.export  # noqa: F401 - what is imported is no part of what is measured

    run({**tables, "seeds": "0", "limit": 1})
    before = peak_mb()
    summary, seconds = run(tables)
    peak = peak_mb()
    taken = {key: summary[key] for key in ("lines", "bytes", "sha256")}
    print(json.dumps({**taken, "episodes": summary["episodes"]["kept"], "seconds": seconds, "before": before, "peak": peak}))


def whole(episodes: int) -> list[dict[str, Any]]:
    """Filter a fifth of the store, all of it, and all of it again."""
    several, second, _ = seeds_of(episodes)
    fifth = f"0-{max(1, several // 5) - 1},{several}-{several + max(1, second // 5) - 1}"
    heavy = {"deduplicate": True, "conflicts": "best", "shuffle": True, "max_sequence_length": 100_000}
    runs: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("a fifth of the episodes", lambda: fresh({**OPEN, "seeds": fifth})),
        ("all", lambda: fresh(OPEN)),
        ("all, again", lambda: fresh(OPEN)),
        ("a fifth, every line compared", lambda: fresh({**OPEN, **heavy, "seeds": fifth})),
        ("all, every line compared", lambda: fresh({**OPEN, **heavy})),
        ("the same, again", lambda: fresh({**OPEN, **heavy})),
    ]
    names = f"{'episodes':>9}{'lines':>9}{'MB':>8}{'s':>7}{'ms/line':>9}{'peak MB':>9}{'grown':>7}"
    print(f"\n{'in a fresh process':<30}{names}  sha256")
    figures = []
    for name, act in runs:
        found = act()
        per_line = 1000 * found["seconds"] / found["lines"]
        print(
            f"{name:<30}{found['episodes']:>9}{found['lines']:>9}{found['bytes'] / 1e6:>8.1f}{found['seconds']:>7.1f}"
            f"{per_line:>9.2f}{found['peak']:>9.1f}{found['peak'] - found['before']:>7.1f}  {found['sha256'][:16]}"
        )
        figures.append({"run": name, **found})
    for one, other in ((1, 2), (4, 5)):
        assert figures[one]["sha256"] == figures[other]["sha256"], "the same store and spec gave other bytes"
    return figures


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--turns", type=int, default=150)
    parser.add_argument("--keys-on", type=int, default=40, help="episodes on which the keys are tried one by one")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(json.loads(given.child))
        return
    from app.settings import get_settings

    print(machine())
    with scratch() as home:
        os.environ["SYNTHQ_HOME"] = str(home)
        get_settings.cache_clear()
        began = time.perf_counter()
        turns = play(given.episodes, given.turns)
        print(f"played in {time.perf_counter() - began:.0f} s by {PROCESSES} processes")
        save("filter", {"turns": turns, "keys": one_by_one(given.keys_on), "whole": whole(given.episodes)})


if __name__ == "__main__":
    main()
