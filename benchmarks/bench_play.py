"""Episodes per second through queue and store, against a bare loop over the same environment with PNG encoding.

    python -m benchmarks.bench_play [--seeds scripted=40,random=160] [--rounds 3]

Two processes each, paired in one run: a bare round, then a round through real workers, in turn. The bare loop resets, draws the
frame, encodes it as PNG, asks the policy, acts; it builds no prompt, parses nothing and stores nothing. Start states are cached
in both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import time
from collections import Counter
from typing import Any

from benchmarks.system import System, machine, save, scratch, spread, submit, wait_for

PROCESSES = 2


def bare(job: tuple[str, list[int]]) -> int:
    """Play seeds in a plain loop; give the turns."""
    from app.records import EpisodeKey
    from workers.rollout import envs, policies
    from workers.rollout.policies.base import Request
    from workers.rollout.prompts import PromptOptions
    from workers.transport.pixels import encode_png

    name, seeds = job
    env, options, turns = envs.make("crafter"), PromptOptions(max_actions=8), 0

    async def play(seed: int) -> int:
        env.reset(seed)
        policy = policies.make(name)
        policy.begin(env, EpisodeKey(iteration=0, seed=seed, member=0), sampling_seed=0)
        turn = 0
        while env.ended is None:
            encode_png(env.frame())
            reply = await policy.reply(Request(index=turn, messages=(), options=options, actions=env.actions, env=env))
            env.step(json.loads(reply.tool_calls[0].arguments)["actions"][0])
            turn += 1
        return turn

    for seed in seeds:
        turns += asyncio.run(play(seed))
    return turns


def bare_round(pool: Any, name: str, seeds: int) -> tuple[float, int]:
    """Seconds and turns of one round of the bare loop over two processes that take small shares, as workers do."""
    shares = [list(range(i, min(i + 4, seeds))) for i in range(0, seeds, 4)]
    began = time.perf_counter()
    turns = sum(pool.imap_unordered(bare, [(name, share) for share in shares]))
    return time.perf_counter() - began, turns


def queue_round(name: str, seeds: int) -> tuple[float, int, dict[str, float]]:
    """Seconds from submit to the last episode stored, by the database's clock; turns; milliseconds a turn by part."""
    from sqlmodel import col, select

    from app import db
    from app.models import Episode

    job_id = submit("eval", {"eval": {"seeds": f"0-{seeds - 1}", "policies": [name], "episodes_per_step": 4}})

    job = wait_for(job_id)
    with db.reading() as session:
        rows = session.exec(select(Episode).where(col(Episode.job_id) == job_id)).all()
    turns = sum(row.turns for row in rows)
    seconds = max(row.finished_at or 0.0 for row in rows) - job.created_at
    parts: Counter[str] = Counter()
    for row in rows:
        parts.update(row.timings)
    return seconds, turns, {part: ms / turns for part, ms in parts.items()}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="scripted=40,random=160", help="seeds a round, for each policy")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    figures: dict[str, Any] = {}
    with (
        scratch() as home,
        System(home, workers=PROCESSES) as system,
        multiprocessing.get_context("spawn").Pool(PROCESSES) as pool,
    ):
        assert os.environ["SYNTHQ_HOME"] == system.env["SYNTHQ_HOME"]
        for name, seeds in [(name, int(count)) for name, _, count in (part.partition("=") for part in given.seeds.split(","))]:
            bare_round(pool, name, seeds), queue_round(name, seeds)  # fills the caches of start states
            ratios, bares, queues, parts = [], [], [], {}
            for _ in range(given.rounds):
                bare_s, bare_turns = bare_round(pool, name, seeds)
                queue_s, queue_turns, parts = queue_round(name, seeds)
                assert bare_turns == queue_turns, "the two played different episodes"
                ratios.append(bare_s / queue_s)
                bares.append(seeds / bare_s)
                queues.append(seeds / queue_s)
            per_turn = PROCESSES * 1000 * seeds / queue_turns
            rest = per_turn / (sum(queues) / len(queues)) - sum(parts.values())
            print(f"\n{name}: {seeds} seeds, {queue_turns} turns, {given.rounds} paired rounds, median (range)")
            print(f"  bare loop, episodes/s            {spread(bares)}")
            print(f"  through queue and store          {spread(queues)}")
            print(f"  ratio, pair by pair              {spread(ratios, 3)}")
            print("  ms a turn: " + ", ".join(f"{k} {v:.3f}" for k, v in parts.items()) + f", everything else {rest:.3f}")
            figures[name] = {"bare": bares, "queue": queues, "ratio": ratios, "ms_a_turn": parts | {"rest": rest}}
    save("play", figures)


if __name__ == "__main__":
    main()
