"""Our Crafter against stock Crafter (with ordered chunks): steps, resets and restores, paired, with every frame compared.

    python -m benchmarks.bench_env [--seeds 20] [--steps 1000] [--size 64]

Each seed is one pair: both play the same random actions, in turns of 20 steps, to the end of the episode or for ``--steps``.
What is timed is the CPU time of this one thread, so other processes disturb it less. A ratio is worked out inside each pair.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.system import machine, save, spread
from workers.rollout.envs.crafter import Crafter
from workers.rollout.envs.crafter.advance import begin
from workers.rollout.envs.crafter.starts import Starts
from workers.transport.pixels import encode_png

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "envs"))

from stock import stock

T = TypeVar("T")
TURN = 20
"""Steps that one of the two plays before the other does."""
DUSK = 147
"""The last step before the first noisy frame: with tiles of another size stock plays another game from there on."""


class Clock:
    """CPU seconds by name."""

    def __init__(self) -> None:
        self.s: defaultdict[str, float] = defaultdict(float)

    def time(self, name: str, call: Callable[[], T]) -> T:
        """Call, and add what it took."""
        began = time.thread_time()
        result = call()
        self.s[name] += time.thread_time() - began
        return result


def play(env: Crafter, actions: list[str], look: bool) -> list[tuple[float, bool, Any]]:
    """Reward, end and frame of each step, as far as the episode goes."""
    told = []
    for action in actions:
        if env.ended:
            break
        result = env.step(action)
        told.append((result.reward, result.terminated or result.truncated, env.frame() if look else None))
    return told


def play_stock(env: Any, actions: list[int]) -> list[tuple[float, bool, Any]]:
    """The same of stock."""
    told = []
    for action in actions:
        frame, reward, done, _ = env.step(action)
        told.append((reward, done, frame))
        if done:
            break
    return told


def pair(seed: int, steps: int, size: int, folder: Path) -> dict[str, float]:
    """One seed in both: CPU seconds by name, how many frames were compared and how many steps differed."""
    clock, rng = Clock(), random.Random(seed)
    theirs = stock(seed, size=size)
    frame = clock.time("stock reset", theirs.reset)
    clock.time("fresh", lambda: begin(seed))
    Starts(folder).world(seed)
    clock.time("disk", lambda: Starts(folder).world(seed))
    ours, blind = Crafter(image_size=size), Crafter(image_size=size)
    ours.reset(seed)
    clock.time("memory", lambda: ours.reset(seed))
    blind.reset(seed)
    compared, different = 1, int(not np.array_equal(frame, ours.frame()))
    while not ours.ended and ours.length < steps:
        numbers = [rng.randrange(len(ours.actions)) for _ in range(TURN)]
        names = [ours.actions[number] for number in numbers]
        a = clock.time("stock steps", lambda numbers=numbers: play_stock(theirs, numbers))
        b = clock.time("our steps", lambda names=names: play(ours, names, True))
        clock.time("blind steps", lambda names=names: play(blind, names, False))
        compared += len(a)
        different += abs(len(a) - len(b))
        for (reward, done, frame), (our_reward, our_done, our_frame) in zip(a, b, strict=False):
            different += not ((reward, done) == (our_reward, our_done) and np.array_equal(frame, our_frame))
        clock.time("png", lambda b=b: [encode_png(frame) for _, _, frame in b])
    snapshot = clock.time("snapshot", ours.snapshot)
    clock.time("restore", lambda: ours.restore(snapshot))
    clock.time("hash", ours.state_sha256)
    different += ours.state_sha256() != blind.state_sha256()
    return dict(clock.s) | {"steps": ours.length, "compared": compared, "different": different}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    if options.size // 9 != 7:
        options.steps = min(options.steps, DUSK // TURN * TURN)
        print(f"{options.size} px is not stock's usual size: compared by day only, {options.steps} steps at the most")
    with tempfile.TemporaryDirectory(prefix="sq-") as folder:
        pair(10_000, 20, options.size, Path(folder))  # the atlas and the imports are paid here
        pairs = [pair(seed, options.steps, options.size, Path(folder)) for seed in range(options.seeds)]
    report(pairs, options.size)
    save(f"env_{options.size}", {"machine": machine(), "size": options.size, "pairs": pairs})


def report(pairs: list[dict[str, float]], size: int) -> None:
    """The table: medians, with the range over the seeds."""
    print(f"{machine()}\n{len(pairs)} seeds, {size} px, random actions; median (lowest to highest) over the seeds\n")
    print(f"{'':34}{'stock':28}{'ours':30}{'times as fast'}")
    rates = {name: [p["steps"] / p[f"{name} steps"] for p in pairs] for name in ("stock", "our", "blind")}
    row("steps/s, a frame at each", rates["stock"], rates["our"], 0, rates["our"], rates["stock"])
    row("steps/s, no frame drawn", rates["stock"], rates["blind"], 0, rates["blind"], rates["stock"])
    reset = [1000 * p["stock reset"] for p in pairs]
    for name, key in (("a world never seen", "fresh"), ("kept on disk", "disk"), ("kept in memory", "memory")):
        took = [1000 * p[key] for p in pairs]
        row(f"reset, {name} (ms)", reset, took, 2, reset, took)
    for key in ("snapshot", "restore", "hash"):
        row(f"{key} of a running episode (ms)", None, [1000 * p[key] for p in pairs], 2)
    row("PNG of a frame (ms)", None, [1000 * p["png"] / p["steps"] for p in pairs], 3)
    compared, different = (sum(int(p[key]) for p in pairs) for key in ("compared", "different"))
    print(f"\nframes compared: {compared}; different frames, rewards, ends or final states: {different}")


def row(
    name: str,
    stock: list[float] | None,
    ours: list[float],
    digits: int,
    more: list[float] | None = None,
    less: list[float] | None = None,
) -> None:
    """One line; the ratio is of each pair."""
    ratio = spread([a / b for a, b in zip(more, less, strict=True)], 1) if more and less else ""
    print(f"{name:34}{spread(stock, digits) if stock else '':28}{spread(ours, digits):30}{ratio}")


if __name__ == "__main__":
    main()
