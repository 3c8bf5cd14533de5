"""How well the built-in expert plays Crafter in each of its views, beside chance, and how many decisions a second it makes.

    python -m benchmarks.bench_expert [--seeds 5000-5059] [--steps 1000] [--policies scripted:omniscient,random]

Every seed is played once by each policy through the real ``Game``, one action a turn unless ``--open-loop-k`` says more, in 2
processes. Frames are not drawn, which changes nothing in the world: it draws what it draws at 64 pixels. An episode of 1,000
game steps also tells what was reached by step 100 and 300. Intervals are 95 %, by bootstrap over seeds.

Decisions a second are turns over the seconds that the policy took (``policy``: look, decide, say, and parse) and over those of
the whole turn (``turn``: with prompt, environment and record). Both are wall-clock time of one process beside one other.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from typing import Any

from app.scores import EpisodeScore, summarise
from benchmarks.system import machine, save
from workers.rollout import policies
from workers.rollout.envs.crafter.tables import ACHIEVEMENTS

PROCESSES = 2
LABELS = ("scripted:omniscient", "scripted:visible", "scripted:reactive", "random")
BY_STEP = (100, 300)
"""What was reached by these steps is told, beside what was reached by the end."""


def play(asked: tuple[str, int, int, int]) -> dict[str, Any]:
    """Play one seed; what it came to and the seconds it took."""
    from app.records import EpisodeKey
    from workers.rollout.play import Game, PlayOptions
    from workers.rollout.prompts import PromptOptions

    label, seed, steps, k = asked
    options = PlayOptions(
        env="crafter",
        env_config={"image_size": 64, "length": steps},
        prompt=PromptOptions(max_actions=8),
        keep_frames=False,
    )
    policy = policies.make(label, {"open_loop_k": k} if label.startswith("scripted") else {})
    game = Game.begin(options, policy, EpisodeKey(iteration=0, seed=seed, member=0))

    async def whole() -> float:
        began = time.perf_counter()
        while not game.ended:
            await game.turn()
        return time.perf_counter() - began

    seconds = asyncio.run(whole())
    totals = game.totals
    return {
        "seed": seed,
        "unlocked": game.env.unlocked(),
        "return": float(totals.returns["env"]),
        "length": game.env.length,
        "ended": game.ended,
        "turns": totals.turns,
        "policy_s": totals.timings["policy"] / 1e3,
        "turn_s": seconds,
        "version": policy.version,
    }


def scores(played: Sequence[dict[str, Any]], by: int) -> dict[str, Any]:
    """What was reached by a game step."""
    return summarise(
        [
            EpisodeScore(
                seed=each["seed"],
                achievements=tuple(name for name, step in each["unlocked"].items() if step <= by),
                return_=each["return"],
                length=min(each["length"], by),
            )
            for each in played
        ],
        ACHIEVEMENTS,
    )


def interval(figure: dict[str, float | None], digits: int = 1, times: float = 1.0) -> str:
    """A figure with its interval, such as ``19.7 (19.1 to 20.2)``."""
    mean, low, high = (None if value is None else times * value for value in (figure["mean"], figure["low"], figure["high"]))
    told = f"{mean:.{digits}f}"
    return told if low is None else f"{told} ({low:.{digits}f} to {high:.{digits}f})"


def tell(label: str, played: Sequence[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Print a policy's figures; give them."""
    turns, game_steps = sum(each["turns"] for each in played), sum(each["length"] for each in played)
    alone, whole = turns / sum(each["policy_s"] for each in played), turns / sum(each["turn_s"] for each in played)
    died = sum(each["ended"] == "died" for each in played)
    print(f"\n{label} ({played[0]['version']}): {len(played)} seeds, {turns} turns, {game_steps} game steps, {died} died")
    print(f"  decisions/s: {alone:,.0f} policy, {whole:,.0f} turn; {game_steps / turns:.2f} actions a turn")
    print("  by step   progress, %             achievements            Crafter score")
    figures = {"decisions_per_s": {"policy": alone, "turn": whole}, "died": died, "turns": turns, "version": played[0]["version"]}
    for by in (*(by for by in BY_STEP if by < steps), steps):
        found = scores(played, by)
        columns = (
            interval(found["progress"], times=100.0),
            interval(found["achievements"], 2),
            interval(found["crafter_score"]),
        )
        print(f"  {by:<9} " + "".join(f"{column:<24}" for column in columns))
        figures[f"by_{by}"] = found
    rates = figures[f"by_{steps}"]["achievement_rates"]
    rare = [f"{name} {100 * rate['mean']:.0f}" for name, rate in rates.items() if rate["mean"] < 0.995]
    print(f"  reached in less than all episodes, %: {', '.join(rare) or 'none'}")
    return figures


def seeds_of(text: str) -> list[int]:
    """The seeds of ``5000-5059``."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default="5000-5059", help="first and last seed")
    parser.add_argument("--steps", type=int, default=1000, help="most game steps of an episode")
    parser.add_argument("--policies", default=",".join(LABELS), help="labels of policies, with commas between")
    parser.add_argument("--open-loop-k", type=int, default=1, help="most actions a turn that the expert plans")
    given = parser.parse_args()
    print(machine())
    print(f"seeds {given.seeds[0]} to {given.seeds[-1]}, {given.steps} game steps, open_loop_k {given.open_loop_k}")
    figures = {}
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for label in given.policies.split(","):
            asked = [(label, seed, given.steps, given.open_loop_k) for seed in given.seeds]
            figures[label] = tell(label, pool.map(play, asked, chunksize=2), given.steps)
    save("expert", figures)


if __name__ == "__main__":
    main()
