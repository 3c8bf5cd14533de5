"""How often the intervals of `synthq compare` are right: 95 % of them are to contain the truth.

    python -m benchmarks.interval_coverage [--pairs 1000] [--seeds 50,200] [--pool 150] [--steps 200]

A pool of real Crafter episodes is played first (two of each seed by `random`, one by `scripted:reactive`), and stands for all the
play there is, so that what is true of it is known exactly. Then pairs of arms are drawn from it, each of so many seeds:

    same, random      both arms are `random`, the two episodes of a seed dealt to them by a coin: no difference, seeds in common
    same, scripted    both arms are `scripted:reactive`, each with seeds of its own: no difference, and nothing in common
    apart             `random` against `scripted:reactive` on the same seeds: a known difference

Told is the share of intervals that contain the truth, with its own 95 % interval (Wilson's), for the figures of a comparison and
over the rates of all achievements. The intervals are made by the code that compares jobs (app/compare/bootstrap.py).
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.compare import bootstrap
from app.compare.arms import Play, Sums, sums
from app.compare.figures import figures
from app.scores import wilson
from app.specs.crafter import ACHIEVEMENTS
from benchmarks.system import machine, save

WEAK, STRONG = "random", "scripted:reactive"
TOLD = ("crafter_score", "achievements", "return", "turns")
RATES = "achievement rates"


def play(asked: tuple[str, int, int, int]) -> Play:
    """Play one seed without drawing its frames, which changes nothing in the world."""
    from app.records import EpisodeKey
    from workers.rollout import policies
    from workers.rollout.play import Game, PlayOptions
    from workers.rollout.prompts import PromptOptions

    label, seed, member, steps = asked
    config = {"image_size": 64, "length": steps}
    options = PlayOptions(env="crafter", env_config=config, prompt=PromptOptions(), keep_frames=False)
    game = Game.begin(options, policies.make(label, {}), EpisodeKey(iteration=0, seed=seed, member=member))

    async def whole() -> None:
        while not game.ended:
            await game.turn()

    asyncio.run(whole())
    return Play(
        seed=seed,
        achievements=frozenset(game.env.unlocked()),
        return_=float(game.totals.returns["native"]),
        length=game.env.length,
        turns=game.totals.turns,
    )


class Pool:
    """What was played, by seed, and what is true of it."""

    def __init__(self, seeds: int, steps: int, processes: int) -> None:
        asked = [(label, seed, member, steps) for label, member in ((WEAK, 0), (WEAK, 1), (STRONG, 0)) for seed in range(seeds)]
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            played = pool.map(play, asked, chunksize=8)
        self.seeds = seeds
        self.weak = [played[:seeds], played[seeds : 2 * seeds]]
        self.strong = played[2 * seeds :]

    def truth(self, kind: str) -> tuple[dict[str, float], Any]:
        """The true difference of every figure, and of every achievement's rate."""
        if kind != "apart":
            return dict.fromkeys(TOLD, 0.0), np.zeros(len(ACHIEVEMENTS))
        whole = [sums(plays, [0], ACHIEVEMENTS) for plays in map(alike, (self.weak[0] + self.weak[1], self.strong))]
        low, high = (figures(each) for each in whole)
        return {name: float(high[name][0] - low[name][0]) for name in TOLD}, whole[1].rates[0] - whole[0].rates[0]

    def pair(self, kind: str, seeds: int, random: np.random.Generator) -> list[Sums]:
        """Two arms of so many seeds, drawn from the pool with replacement."""
        drawn = random.integers(self.seeds, size=(2, seeds))
        coin = random.integers(2, size=seeds)
        if kind == "same, random":
            arms = [[self.weak[side ^ int(coin[i])][at] for i, at in enumerate(drawn[0])] for side in (0, 1)]
        elif kind == "same, scripted":
            arms = [[self.strong[at] for at in row] for row in drawn]
        else:
            arms = [[self.weak[int(coin[i])][at] for i, at in enumerate(drawn[0])], [self.strong[at] for at in drawn[0]]]
        return [table(arm) for arm in arms]


def alike(plays: Sequence[Play]) -> list[Play]:
    """The plays as those of one seed, so that they are one row."""
    return [Play(seed=0, achievements=p.achievements, return_=p.return_, length=p.length, turns=p.turns) for p in plays]


def table(plays: Sequence[Play]) -> Sums:
    """A row for each play: one that was drawn twice counts as two seeds."""
    return sums(
        [
            Play(seed=i, achievements=p.achievements, return_=p.return_, length=p.length, turns=p.turns)
            for i, p in enumerate(plays)
        ],
        range(len(plays)),
        ACHIEVEMENTS,
    )


def covered(pool: Pool, kind: str, seeds: int, pairs: int) -> dict[str, tuple[int, int]]:
    """Of each figure: intervals that contain the truth, and intervals."""
    random = np.random.default_rng([seeds, len(kind), pairs])
    truth, rates = pool.truth(kind)
    hits: dict[str, int] = defaultdict(int)
    for _ in range(pairs):
        (a, of_a), (b, of_b) = bootstrap.resampled(pool.pair(kind, seeds, random))
        for name in TOLD:
            low, high = bootstrap.interval(b[name] - a[name], seeds)
            hits[name] += bool(low - 1e-9 <= truth[name] <= high + 1e-9)
        low, high = bootstrap.interval(of_b - of_a, seeds)
        hits[RATES] += int(((low - 1e-9 <= rates) & (rates <= high + 1e-9)).sum())
    return {name: (hits[name], pairs * (len(ACHIEVEMENTS) if name == RATES else 1)) for name in (*TOLD, RATES)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--seeds", default="50,200", help="seeds of an arm")
    parser.add_argument("--pool", type=int, default=150, help="seeds that are played")
    parser.add_argument("--steps", type=int, default=200, help="game steps of an episode")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    print(machine())
    began = time.perf_counter()
    pool = Pool(given.pool, given.steps, given.processes)
    print(f"{3 * given.pool} episodes of up to {given.steps} steps played in {time.perf_counter() - began:.0f} s")
    for name, plays in ((WEAK, pool.weak[0] + pool.weak[1]), (STRONG, pool.strong)):
        told = figures(sums(alike(plays), [0], ACHIEVEMENTS))
        print(f"  {name}: {told['achievements'][0]:.2f} achievements, Crafter score {told['crafter_score'][0]:.2f} %")
    found: dict[str, Any] = {}
    print(f"\n{given.pairs} pairs a line; share of 95 % intervals that contain the truth, in % [its own interval]")
    print(f"{'arms':<16} {'seeds':>5}  " + "  ".join(f"{name:<19}" for name in (*TOLD, RATES)))
    for kind in ("same, random", "same, scripted", "apart"):
        for seeds in map(int, given.seeds.split(",")):
            counts = covered(pool, kind, seeds, given.pairs)
            found[f"{kind}, {seeds} seeds"] = counts
            print(f"{kind:<16} {seeds:>5}  " + "  ".join(f"{share(*count):<19}" for count in counts.values()), flush=True)
    save("interval_coverage", found)


def share(hits: int, trials: int) -> str:
    """``94.8 [93.3, 96.0]``."""
    low, high = wilson(hits, trials)
    return f"{100 * hits / trials:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
