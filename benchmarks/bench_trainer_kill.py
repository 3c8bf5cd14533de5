"""The trainer is killed in the middle of updates: are the weights those of a run that nothing disturbed?

    python -m benchmarks.bench_trainer_kill [--model DIR] [--kills 5] [--episodes 16] [--turns 6] [--passes 8]

The whole system by `synthq up`. An rl job of one iteration more than kills: in the middle of each update but the last, at a place
of its passes that is drawn, the trainer's worker and its child get SIGKILL; the supervisor starts another one, which takes the
update up from the samples that are stored. Afterwards every update is done once more by one process that nobody disturbs, from a
copy of the store and of what training began from, and the adapters are compared by their sha256. Turns are paid by what is said
(benchmarks/rl_system.py), since a model without training would have nothing to learn.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the workers have it: threads change the last digits

from benchmarks import rl_system
from benchmarks.served import Up, tiny, up
from benchmarks.system import machine, save, scratch, spread, until, wait_for


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One of them."""

    update: int
    samples: int
    """That the trainer had told of when it was killed."""
    total: int
    """Samples that the update goes through."""
    middle: bool
    """The update was not done yet."""
    lost_s: float
    """From the update's beginning to the kill: what is done again."""
    again_s: float
    """From the kill until the update was taken up again."""


def step_of(job_id: str, number: int) -> Any:
    """The step of an update; None while there is none."""
    from sqlmodel import col, select

    from app import db
    from app.models import Step

    with db.reading() as session:
        wanted = (col(Step.job_id) == job_id, col(Step.key) == f"1/update/{number}")
        return session.exec(select(Step).where(*wanted)).first()


def training(job_id: str, number: int) -> Any:
    """The step of an update that is at its passes. Raises RuntimeError when the job has ended."""
    from app.models import ENDED
    from benchmarks.system import job_of

    if (job := job_of(job_id)).state in ENDED:
        raise RuntimeError(f"the job {job.state} before update {number}: {job.reason}")
    step = step_of(job_id, number)
    return step if step is not None and step.state == "running" and step.total > 1 else None


def kill(system: Up, job_id: str, number: int, share: float, seconds: float) -> Kill:
    """Kill the trainer after a share of an update's passes, which take so many seconds."""
    from app import db

    until(lambda: training(job_id, number), f"update {number} trains", 300, every_s=0.02)
    time.sleep(share * seconds)
    step = step_of(job_id, number)
    with db.reading() as session:
        now = db.clock(session)
    pids = [*system.pids("trainer"), *system.pids("learner")]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    middle = not (system.home / "runs" / job_id / f"iter-{number}").exists()
    fence = step.fence
    until(lambda: step_of(job_id, number).fence > fence or not middle, f"update {number} is taken up again", 120)
    with db.reading() as session:
        taken_at = db.clock(session)
    return Kill(
        update=number,
        samples=step.done,
        total=step.total,
        middle=middle,
        lost_s=now - (step.started_at or now),
        again_s=taken_at - now,
    )


def seconds_of_passes(job_id: str, number: int) -> float:
    """How long the passes of an update took that is done."""
    from app import db
    from app.store import metrics

    with db.reading() as session:
        return next(row.values["seconds/train"] for row in metrics.series(session, job_id, "update") if row.index == number)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder; no value: a new tiny model")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=16, help="of an iteration")
    parser.add_argument("--turns", type=int, default=6, help="of an episode")
    parser.add_argument("--passes", type=int, default=8, help="over the samples, so that an update takes a while")
    parser.add_argument("--seed", type=int, default=0, help="of the places of the kills")
    given = parser.parse_args()
    draw = Random(given.seed)
    print(machine())
    with tiny(given.model) as model, up(rollout=1, inference=1, SYNTHQ_LEASE_S="6", SYNTHQ_RENEW_S="2") as system:
        rl_system.pay(system.home)
        size = {"episodes": given.episodes, "turns": given.turns}
        spec = rl_system.spec(model, iterations=given.kills + 1, training={"passes": given.passes}, **size)
        job_id = system.post(spec)
        kills, seconds = list[Kill](), 1.0
        for number in range(given.kills):
            kills.append(kill(system, job_id, number, draw.random(), seconds))
            until(lambda n=number: step_of(job_id, n).state == "succeeded", f"update {number} is done", 300, every_s=0.1)
            seconds = seconds_of_passes(job_id, number)
        ended = wait_for(job_id)
        found = rl_system.updates(system.home, job_id)
        with scratch() as folder:
            calm = rl_system.again(system.home, job_id, Path(folder) / "again")
    told(kills, found, calm, ended.state)
    save("trainer_kill", {"kills": [asdict(each) for each in kills], "weights": found, "undisturbed": calm})


def told(kills: list[Kill], found: list[str], calm: list[str], state: str) -> None:
    """The table."""
    print(f"\nupdate  killed after      in its middle  taken up after  adapter {'':6} undisturbed")
    for each in kills:
        at, sha256, other = each.update, found[each.update + 1][:12], calm[each.update + 1][:12]
        place = f"{each.samples} of {each.total}"
        middle = "yes" if each.middle else "no"
        print(f"{at:<7} {place:<17} {middle:<14} {each.again_s:>6.1f} s         {sha256}   {other}")
    last = len(kills)
    print(f"{last:<7} {'-':<17} {'-':<14} {'-':>8}         {found[last + 1][:12]}   {calm[last + 1][:12]}")
    equal = sum(a == b for a, b in zip(found[1:], calm[1:], strict=True))
    middle = sum(each.middle for each in kills)
    print(f"\n{len(kills)} kills, {middle} in the middle of an update; the job {state}")
    print(f"  updates with equal weights   {equal} of {len(calm) - 1} ({len(set(calm)) - 1} of them changed the weights)")
    print(f"  work done again, s           {spread([each.lost_s for each in kills])}")
    print(f"  kill to taken up again, s    {spread([each.again_s for each in kills])}")


if __name__ == "__main__":
    main()
