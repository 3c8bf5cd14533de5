"""Whether rounds of DAgger teach: how often a model does as the expert says, round after round, in states that it came to itself.

    python -m benchmarks.bench_dagger [--rounds 3] [--episodes 32] [--turns 25] [--taught 30] [--epochs 6] [--rate 1e-3]

The tiny model, which begins at random, is first shown a few steps of the expert's own play (``--taught``), so that it mostly says
actions. Then an rl job's rounds: it plays behind the real engine core, the product's own step asks the expert, the product's own
update imitates it. Every round has seeds of its own, unless they are to be the ``--same``. One more than asked for tells
what the others taught. An adapter teaches a model to use what it sees, not to see: one that was taught little stays where it is.
"""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path
from typing import Any

from benchmarks.expert_lines import SHOWN, SIDE_PX, expert_lines, store, teach
from benchmarks.system import machine, save, scratch

LINES, BATCH = 1200, 64
"""Of the expert's own play, and how many of them are a step of what the model is shown first."""
TOLD = ("agreement", "invalid_share", "achievements", "lessons", "loss", "accuracy", "entropy")


def spec_of(model: Path, given: argparse.Namespace) -> Any:
    """The job: as many rounds as are asked for, and one more, whose play tells what the last of them came to."""
    from app import specs

    return specs.build(
        {
            "kind": "rl",
            "model": {"base": str(model)},
            "rollout": {
                "max_turns": given.turns,
                "episodes_per_batch": given.episodes,
                "reply_format": "text",
                "temperature": given.temperature,
                "env_config": {"image_size": SIDE_PX},
                "policy_config": {**SHOWN, "max_tokens": 4},
            },
            "dagger": {
                "rounds": given.rounds + 1,
                "epochs": given.epochs,
                "batch_size": given.batch,
                "learning_rate": given.rate,
            },
            "training": {"iterations": given.rounds + 1, "group_size": 1, "batch_size": 1, "seed": given.seed},
            "evaluation": {"seeds": "0-1"},
            **({"data": {"seeds": f"100-{99 + given.episodes}"}} if given.same else {}),
        }
    )


def taught(home: Path, given: argparse.Namespace) -> Path:
    """A tiny model after a few steps of the expert's play."""
    from workers.init_tiny import texts, words
    from workers.model.tiny import init_tiny
    from workers.trainer.learner import Settings

    init_tiny(home / "tiny", texts(seeds=1, turns=3), words=words())
    lines = expert_lines(home / "lines.jsonl", "20000-20007", LINES)
    settings = Settings(base=str(home / "tiny"), mode="full", learning_rate=3e-3, device="cpu", seed=given.seed)
    teach(settings, lines, home / "taught", steps=given.taught, batch=BATCH)
    return home / "taught"


def rounds(model: Path, given: argparse.Namespace) -> list[dict[str, float]]:
    """Figures of every round."""
    from app import specs
    from app.models import served_name
    from benchmarks.rl_play import Player, ask, play, submitted
    from workers.inference.core import Core
    from workers.model.loading import load
    from workers.trainer.child.held import Held
    from workers.trainer.child.ranks import Alone
    from workers.trainer.rl import update

    spec = spec_of(model, given)
    job = submitted(spec, model)
    args = {"job": job.id, "spec": specs.resolved(spec), "base": str(model), "adapter": ""}
    held = Held(Alone(), threading.Event())
    made, told = update.begin(args, lambda event: None, held), []
    for iteration in range(given.rounds + 1):
        loaded = load(model, device="cpu")
        core, served = Core(loaded), served_name(job.id, iteration + 1)
        core.start()
        try:
            play(job.id, spec, Player(loaded, core, spec, served, core.load_adapter(served, made["path"])), iteration)
        finally:
            core.stop()
        asked = ask(job.id, spec, iteration)
        assert asked.state == "succeeded", asked.reason
        made = update.run({**args, "iteration": iteration, "version": iteration + 1}, lambda event: None, held)
        told.append({name: made["figures"][name] for name in TOLD})
        print("  ".join(f"{name} {value:.3f}" for name, value in told[-1].items()), flush=True)
    return told


def main() -> None:
    """Measure, and print a line for each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("rounds", 3),
        ("episodes", 32),
        ("turns", 25),
        ("taught", 30),
        ("epochs", 6),
        ("batch", 32),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument(
        "--temperature", type=float, default=0.5, help="of play; near 0, what is measured is what it finds likeliest"
    )
    parser.add_argument("--model", type=Path, help="a folder, in place of the tiny model that is taught here")
    parser.add_argument("--same", action="store_true", help="play the same seeds in every round, so that rounds can be compared")
    given = parser.parse_args()
    os.environ.setdefault("SYNTHQ_WORKER_ID", "bench")
    print(machine())
    with scratch() as home, store(home):
        found = rounds(given.model or taught(home, given), given)
    shares = ", ".join(f"{each['agreement']:.1%}" for each in found)
    print(f"agreement in up to {given.episodes * given.turns} turns before each round, and after the last: {shares}")
    save("dagger", {"given": {name: str(value) for name, value in vars(given).items()}, "rounds": found})


if __name__ == "__main__":
    main()
