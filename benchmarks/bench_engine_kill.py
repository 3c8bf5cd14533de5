"""One of two inference workers is killed by SIGKILL in the middle of an eval: does it complete, and is any turn lost?

    python -m benchmarks.bench_engine_kill [--model DIR] [--rollout 2] [--episodes 32] [--turns 60] [--rounds 3]

Each round plays the eval twice, undisturbed and disturbed, at temperature 0, and compares the traces. A trace's hash leaves out
log-probabilities, whose last bits depend on what was computed in one batch with a turn; so their largest difference is told
beside it.
"""

from __future__ import annotations

import argparse
import os
import signal
from typing import Any

from benchmarks.bench_model_eval import table
from benchmarks.served import Up, tiny, up
from benchmarks.system import machine, save, spread, until, wait_for


def traces(job_id: str) -> dict[tuple[int, int], dict[str, Any]]:
    """(seed, member) -> its hash, the indices of its turns, their tokens, log-probabilities, attempts and endpoints."""
    from sqlmodel import col, select

    from app import db
    from app.models import Episode, TurnRow

    found: dict[tuple[int, int], dict[str, Any]] = {}
    with db.reading() as session:
        for row in session.exec(select(Episode).where(col(Episode.job_id) == job_id)):
            query = select(TurnRow).where(col(TurnRow.episode_id) == row.id).order_by(col(TurnRow.index))
            turns = session.exec(query).all()
            found[row.seed, row.member] = {
                "state": row.state,
                "sha256": row.sha256,
                "turns": row.turns,
                "indices": [turn.index for turn in turns],
                "tokens": [turn.output_ids for turn in turns],
                "logprobs": [turn.logprobs for turn in turns],
                "again": sum(turn.reply["notes"]["attempts"] > 1 for turn in turns),
                "endpoints": {turn.reply["notes"]["endpoint"] for turn in turns},
            }
    return found


def woken(system: Up, asked: dict[str, Any]) -> None:
    """Have both inference workers serve the model: a second one comes to it once more steps wait than endpoints serve."""
    from app import db, endpoints

    def both() -> bool:
        system.play(**asked | {"seeds": "0-15", "max_turns": 4, "episodes_per_step": 1})
        with db.reading() as session:
            pointed = [row for row in endpoints.live(session) if row.desired]
        return len(pointed) >= 2

    until(both, "two endpoints should serve the model", 120, every_s=1.0)
    system.ready(2)


def turns_of(job_id: str) -> int:
    """Turns of episodes that are stored, of a job that runs."""
    return sum(each["turns"] for each in traces(job_id).values())


def disturbed(system: Up, asked: dict[str, Any]) -> tuple[str, float]:
    """Play it, and kill an inference worker once a third is stored; the job's id, and seconds from the kill to its end."""
    job_id = system.submit(**asked)
    third = len(range(*_seeds(asked))) * asked["max_turns"] // 3
    until(lambda: turns_of(job_id) >= third, "a third is played", 300)
    (victim,) = system.pids("inference")[:1]
    os.kill(victim, signal.SIGKILL)
    from app import db

    with db.reading() as session:
        killed_at = db.clock(session)
    ended = wait_for(job_id)
    if ended.state != "succeeded":
        raise RuntimeError(f"the job {ended.state}: {ended.reason}")
    return job_id, (ended.finished_at or killed_at) - killed_at


def _seeds(asked: dict[str, Any]) -> tuple[int, int]:
    first, _, last = asked["seeds"].partition("-")
    return int(first), int(last) + 1


def difference(one: list[list[float]], other: list[list[float]]) -> float:
    """The largest difference of a log-probability, where the tokens are the same."""
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return max((abs(a - b) for a, b in pairs), default=0.0)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder; no value: a new tiny model")
    parser.add_argument("--rollout", type=int, default=2, help="rollout workers")
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--frame-px", type=int, default=63)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    figures: list[dict[str, Any]] = []
    with tiny(given.model) as model, up(rollout=given.rollout, inference=2, SYNTHQ_SEGMENT_S="0.5") as system:
        asked = table(str(model), given) | {"temperature": 0.0}
        for number in range(given.rounds):
            woken(system, asked)
            calm = traces(system.play(**asked))
            system.ready(2)
            job_id, seconds = disturbed(system, asked)
            figures.append(compared(calm, traces(job_id)) | {"seconds_after": seconds})
            print(f"round {number + 1}: " + ", ".join(f"{name} {value}" for name, value in figures[-1].items()))
    rounds = len(figures)
    print(f"\n{rounds} rounds of {given.episodes} episodes of {given.turns} turns, one of two inference workers killed in each")
    print(f"  episodes done          {sum(each['done'] for each in figures)} of {rounds * given.episodes}")
    print(f"  turns lost or twice    {sum(each['lost'] for each in figures)}")
    print(f"  turns asked again      {sum(each['again'] for each in figures)}")
    print(f"  traces equal by hash   {sum(each['equal'] for each in figures)} of {rounds * given.episodes}")
    print(f"  by sampled tokens      {sum(each['equal_tokens'] for each in figures)} of {rounds * given.episodes}")
    print(
        f"  largest difference of a log-probability, where the tokens are equal: {max(each['logprob'] for each in figures):.2e}"
    )
    print(f"  seconds from the kill to the end of the job: {spread([each['seconds_after'] for each in figures])}")
    save("engine_kill", {"rounds": figures})


def compared(calm: dict[tuple[int, int], dict[str, Any]], other: dict[tuple[int, int], dict[str, Any]]) -> dict[str, Any]:
    """How one play stands beside another."""
    same = [key for key in calm if calm[key]["tokens"] == other[key]["tokens"]]
    return {
        "done": sum(each["state"] == "done" for each in other.values()),
        "lost": sum(each["indices"] != list(range(each["turns"])) for each in other.values()),
        "again": sum(each["again"] for each in other.values()),
        "moved": sum(len(each["endpoints"]) > 1 for each in other.values()),
        "equal": sum(calm[key]["sha256"] == other[key]["sha256"] for key in calm),
        "equal_tokens": len(same),
        "logprob": max((difference(calm[key]["logprobs"], other[key]["logprobs"]) for key in same), default=0.0),
    }


if __name__ == "__main__":
    main()
