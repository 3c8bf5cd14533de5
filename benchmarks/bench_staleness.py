"""Where the seconds of an rl job go, with play after each update (staleness 0) and beside it (staleness 1).

    python -m benchmarks.bench_staleness [--model DIR] [--iterations 10] [--episodes 32] [--turns 10] [--rollout 2] [--rounds 1]

The whole system by `synthq up`: an engine, a trainer, rollout workers. The same job runs with each staleness, on the same seeds;
one that is not counted runs before, so that everything is loaded. The time of a job, from its first step to its last, is cut
where a step begins or ends, and each piece goes to what ran in it. Beside that: the update by phase, as the trainer measured it;
how long each kind of worker was at it, and how long steps waited for one; turns by how many updates old the policy was that said
them, and those that were dropped for it. Turns are paid by what is said (benchmarks/rl_system.py), since a model without training
would have nothing to learn.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

from benchmarks import rl_system
from benchmarks.served import Taken, Up, tiny, up
from benchmarks.system import machine, save, wait_for

PLAY, EVALUATION, UPDATE = "play", "evaluation", "update"
TOLD: Final = {
    "play": "play alone",
    "play+update": "play beside an update",
    "update": "an update alone",
    "evaluation": "evaluation",
    "begin": "making the adapter",
    "rl_score": "scores alone",
    "rl_report": "report",
    "keep": "keeping the adapters",
    "": "no step: between them",
}
"""What a piece of time went to, by what ran in it."""
PHASES: Final = ("load", "collect", "check", "score", "train", "save", "publish")
"""Of an update; the last one is the wait until an engine has its version."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A step, as the store has it."""

    what: str
    queue: str
    waited_from: float
    began: float
    ended: float


def pieces(job_id: str) -> list[Piece]:
    """The steps of a job that ran."""
    from sqlmodel import col, select

    from app import db
    from app.models import Step

    with db.reading() as session:
        rows = session.exec(select(Step).where(col(Step.job_id) == job_id)).all()
        return [
            Piece(
                what=EVALUATION if row.payload.get("purpose") == EVALUATION else row.kind,
                queue=row.queue,
                waited_from=max(row.created_at, row.available_at),
                began=row.started_at,
                ended=row.finished_at,
            )
            for row in rows
            if row.started_at is not None and row.finished_at is not None
        ]


def shares(steps: Sequence[Piece]) -> dict[str, float]:
    """Seconds by what ran in them, from the first step's beginning to the last one's end; nothing is counted twice."""
    edges = sorted({edge for step in steps for edge in (step.began, step.ended)})
    found: Counter[str] = Counter()
    for start, end in pairwise(edges):
        running = {step.what for step in steps if step.began <= start and step.ended >= end}
        if len(running) > 1:
            running -= {"rl_score"}  # it runs beside updates, and nobody waits for it
        found["+".join(sorted(running))] += end - start
    return dict(found)


def busy(steps: Sequence[Piece], queue: str) -> float:
    """Seconds of workers of one kind that were at a step."""
    return sum(step.ended - step.began for step in steps if step.queue == queue)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One job."""

    staleness: int
    job: str
    seconds: float
    went: dict[str, float]
    phases: dict[str, float]
    """Of all updates, summed."""
    trainer_busy: float
    computing: float
    """Seconds in which the trainer's child was at it."""
    rollout_busy: float
    waited: dict[str, float]
    """Steps' seconds in the queue, summed, by kind."""
    cpu: dict[str, float]
    """Processor seconds by kind of process."""
    turns: dict[str, float]
    dropped: float
    mean_return: list[float]


def ran(system: Up, spec: dict[str, Any], staleness: int) -> Run:
    """Run the job, and see where its time went."""
    from app import db
    from app.store import metrics

    before = system.taken()
    job_id = system.post(spec)
    ended = wait_for(job_id, 3600)
    after = system.taken()
    if ended.state != "succeeded":
        raise RuntimeError(f"job {job_id} {ended.state}: {ended.reason}\n{system.said('trainer')}")
    steps = pieces(job_id)
    with db.reading() as session:
        values = [row.values for row in metrics.series(session, job_id, "update")]
    total: dict[str, float] = defaultdict(float)
    for each in values:
        for name, value in each.items():
            total[name] += value or 0.0
    waited: Counter[str] = Counter()
    for step in steps:
        waited[step.what] += max(0.0, step.began - step.waited_from)
    return Run(
        staleness=staleness,
        job=job_id,
        seconds=max(step.ended for step in steps) - min(step.began for step in steps),
        went=shares(steps),
        phases={phase: total[f"seconds/{phase}"] for phase in PHASES},
        trainer_busy=busy(steps, "trainer"),
        computing=total["seconds/call"],
        rollout_busy=busy(steps, "rollout"),
        waited=dict(waited),
        cpu={role: _cpu(before[role], after[role]) for role in ("engine", "learner", "rollout")},
        turns={name: total[name] for name in sorted(total) if name.startswith("staleness/")},
        dropped=total["left_out/stale"],
        mean_return=[each.get("return") or 0.0 for each in values],
    )


def _cpu(before: Taken, after: Taken) -> float:
    return after.cpu_s - before.cpu_s


def table(runs: Sequence[Run], workers: int) -> None:
    """A column for each staleness; of several rounds the median."""
    by: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        by[run.staleness].append(run)
    kinds = sorted(by)

    def row(name: str, of: Any, form: str = "10.1f") -> None:
        print(f"  {name:34}" + "".join(format(statistics.median(of(run) for run in by[kind]), form) for kind in kinds))

    print(f"\n{'staleness':36}" + "".join(f"{kind:10}" for kind in kinds))
    print("seconds")
    row("whole job", lambda run: run.seconds)
    for key in dict.fromkeys([*TOLD, *(key for run in runs for key in run.went)]):
        if any(run.went.get(key) for run in runs):
            row(f"  {TOLD.get(key, key)}", lambda run, key=key: run.went.get(key, 0.0))
    print("seconds of the updates, by phase")
    for phase in PHASES:
        name = "wait until the version is live" if phase == "publish" else phase
        row(f"  {name}", lambda run, phase=phase: run.phases[phase], "10.2f")
    row("  of their steps, besides", lambda run: _besides(run), "10.2f")
    print("at work, share of the whole job")
    row("  trainer (its steps)", lambda run: run.trainer_busy / run.seconds, "10.1%")
    row("  trainer (computing)", lambda run: run.computing / run.seconds, "10.1%")
    row(f"  rollout ({workers} workers)", lambda run: run.rollout_busy / run.seconds / workers, "10.1%")
    row("  engine (processor time)", lambda run: run.cpu["engine"] / run.seconds, "10.1%")
    print("seconds that steps waited for a worker or a version, summed")
    for what in (PLAY, UPDATE, EVALUATION):
        row(f"  {what}", lambda run, what=what: run.waited.get(what, 0.0), "10.2f")
    print("turns that were learnt from, by updates since they were said")
    for name in sorted({name for run in runs for name in run.turns}):
        row(f"  {name.removeprefix('staleness/')}", lambda run, name=name: run.turns.get(name, 0.0), "10.0f")
    row("dropped as too old", lambda run: run.dropped, "10.0f")
    row("mean return of the first iteration", lambda run: run.mean_return[0], "10.3f")
    row("mean return of the last", lambda run: run.mean_return[-1], "10.3f")


def _besides(run: Run) -> float:
    """Seconds of trainer's steps that are neither the child's nor waiting: claims, writes, artifacts."""
    return run.trainer_busy - run.computing - run.phases["publish"]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder; no value: a new tiny model")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=32, help="of an iteration")
    parser.add_argument("--group", type=int, default=8, help="episodes of one seed")
    parser.add_argument("--turns", type=int, default=10, help="of an episode")
    parser.add_argument("--reply", type=int, default=3, help="most tokens of a reply")
    parser.add_argument("--image", type=int, default=63, help="side of a frame in pixels")
    parser.add_argument("--passes", type=int, default=1, help="over the samples of an iteration")
    parser.add_argument("--every", type=int, default=5, help="iterations between two evaluations")
    parser.add_argument("--rollout", type=int, default=2, help="rollout workers")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=1, help="how often each runs, the order turned round each time")
    given = parser.parse_args()
    print(machine())

    def spec(staleness: int, iterations: int) -> dict[str, Any]:
        size = {"episodes": given.episodes, "group": given.group, "turns": given.turns, "reply": given.reply}
        training = {"staleness": staleness, "passes": given.passes}
        tried = {"seeds": "0-7", "at_start": True, "every_n_iters": given.every}
        tables = {"training": training, "evaluation": tried, "checkpoint": {"keep": 3}}
        return rl_system.spec(model, iterations=iterations, image=given.image, **size, **tables)

    runs: list[Run] = []
    with tiny(given.model) as model, up(rollout=given.rollout, inference=1) as system:
        rl_system.pay(system.home)
        ran(system, spec(0, 1), 0)
        for number in range(given.rounds):
            for staleness in given.staleness if number % 2 == 0 else reversed(given.staleness):
                runs.append(ran(system, spec(staleness, given.iterations), staleness))
                print(f"round {number + 1}, staleness {staleness}: {runs[-1].seconds:.1f} s", flush=True)
    size = f"{given.iterations} iterations of {given.episodes} episodes x {given.turns} turns, {given.rounds} of each"
    print(f"\n{size}{' (medians)' if given.rounds > 1 else ''}; {given.rollout} rollout workers, one engine, one trainer")
    table(runs, given.rollout)
    save("staleness", {"runs": [asdict(run) for run in runs]})


if __name__ == "__main__":
    main()
