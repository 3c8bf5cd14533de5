"""Turns per second of an eval whose policy is a served model, and where each millisecond goes.

    python -m benchmarks.bench_model_eval [--model DIR] [--rollout 2] [--episodes 64] [--turns 60] [--in-flight 16] [--rounds 3]
    python -m benchmarks.bench_model_eval --modes

The whole system by `synthq up`: one inference worker with its engine, rollout workers, SQLite. A first job loads the model and
fills the caches, and is not counted. Parts are wall time as an episode sees it: with many episodes under way they overlap, so
beside them stands what each kind of process took of the cores. ``--modes`` compares text alone, text and picture, picture alone.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict
from typing import Any

from benchmarks.served import SHORT, Round, Taken, Up, measured, tiny, up
from benchmarks.system import machine, save, spread, wait_for

PARTS = ("frame", "prompt", "policy", "http", "processor", "queue", "prefill", "decode", "env")
MODES: dict[str, dict[str, Any]] = {
    "text only": {"use_vision": False, "image_only_mode": False, "rules": "none", "history": 3},
    "text + image": {"use_vision": True, "image_only_mode": False, "rules": "none", "history": 3},
    "image only": {"use_vision": True, "image_only_mode": True, "rules": "none"},
}


def table(model: str, given: argparse.Namespace, **config: Any) -> dict[str, Any]:
    """The eval that is played."""
    return {
        "policies": [f"model:{model}"],
        "seeds": f"0-{given.episodes - 1}",
        "max_turns": given.turns,
        "reply_format": "text",
        "env_config": {"image_size": given.frame_px},
        "episodes_in_flight": given.in_flight,
        "episodes_per_step": given.in_flight,
        "policy_config": SHORT | config,
    }


def rounds(system: Up, asked: dict[str, Any], count: int) -> tuple[list[Round], dict[str, float], dict[str, Taken]]:
    """So many jobs, after one that is not counted: what they came to, CPU milliseconds a turn and memory by kind of process."""
    system.play(**asked | {"seeds": "0-7"})
    before = system.taken()
    made = [measured(system.play(**asked)) for _ in range(count)]
    after = system.taken()
    turns = sum(each.turns for each in made)
    cpu = {role: (after[role].cpu_s - before[role].cpu_s) * 1e3 / turns for role in after}
    return made, cpu, after


def storing(system: Up, asked: dict[str, Any]) -> float:
    """Milliseconds a turn that writing to the store takes. One step is played in this process, where it can be timed."""
    from app.models import Queue
    from workers.rollout.play_step.sitting import Sitting
    from workers.runner import run_hint
    from workers.tasks import STEPS

    spent, turns = 0.0, 0
    stored = Sitting._save

    def timed(self: Sitting, game: Any, state: str) -> None:
        nonlocal spent, turns
        began = time.perf_counter()
        stored(self, game, state)
        spent += time.perf_counter() - began
        turns += game.totals.turns

    os.environ["SYNTHQ_WORKER_ID"] = "benchmark"
    Sitting._save = timed  # type: ignore[method-assign]
    with system.stopped("rollout"):
        job_id = system.submit(**asked | {"seeds": "0-15", "episodes_per_step": 16})
        while not turns:
            run_hint(Queue.ROLLOUT, STEPS, hint=None)
    Sitting._save = stored  # type: ignore[method-assign]
    wait_for(job_id)
    return spent * 1e3 / turns


def tell(name: str, made: list[Round], cpu: dict[str, float], after: dict[str, Taken]) -> None:
    """Print one table."""
    rate = [each.turns / each.seconds for each in made]
    last = made[-1]
    print(f"\n{name}: {last.turns} turns a round, {len(made)} rounds, median (range)")
    print(f"  turns/s                {spread(rate, 1)}")
    print(
        f"  tokens a turn          prompt {last.prompt_tokens:.1f}, of them image {last.image_tokens:.1f} and not computed again "
        f"{last.prefix_tokens:.1f}; reply {last.reply_tokens:.1f}"
    )
    parts = {part: sum(each.parts.get(part, 0.0) for each in made) / len(made) for part in PARTS}
    print("  wall ms a turn         " + ", ".join(f"{part} {ms:.2f}" for part, ms in parts.items()))
    print(
        "  CPU ms a turn          "
        + ", ".join(f"{role} {ms:.2f}" for role, ms in cpu.items())
        + f"; in all {sum(cpu.values()):.2f}"
    )
    print(
        "  memory, MB             " + ", ".join(f"{role} {after[role].rss_mb:.0f}" for role in ("engine", "rollout", "inference"))
    )
    print("  outcomes               " + ", ".join(f"{outcome} {count}" for outcome, count in sorted(last.outcomes.items())))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder; no value: a new tiny model")
    parser.add_argument("--rollout", type=int, default=2, help="rollout workers")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--turns", type=int, default=60, help="turns of an episode")
    parser.add_argument("--in-flight", type=int, default=16, help="episodes under way at once in one worker")
    parser.add_argument("--frame-px", type=int, default=63)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", action="store_true", help="compare text only, text + image, image only")
    given = parser.parse_args()
    print(machine())
    print(
        f"{given.rollout} rollout workers with {given.in_flight} episodes under way each, 1 engine, {given.episodes} episodes of "
        f"{given.turns} turns, frames of {given.frame_px} px, prefix and picture caches on"
    )
    figures: dict[str, Any] = {}
    with tiny(given.model) as model:
        for name, config in (MODES if given.modes else {"image only": MODES["image only"]}).items():
            asked = table(str(model), given, **config)
            with up(rollout=given.rollout, inference=1) as system:  # one each, so that memory is of this mode alone
                made, cpu, after = rounds(system, asked, given.rounds)
                tell(name, made, cpu, after)
                figures[name] = {"rounds": [asdict(each) for each in made], "cpu_ms": cpu}
                if not given.modes:
                    figures[name]["store_ms"] = storing(system, asked)
                    print(f"  store                  {figures[name]['store_ms']:.2f} ms a turn, in the loop of the worker")
    save("model_modes" if given.modes else "model_eval", figures)


if __name__ == "__main__":
    main()
