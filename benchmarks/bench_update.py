"""What an update of rl takes, and where its time goes: from stored play to a checkpoint with the adapter that plays next.

    python -m benchmarks.bench_update [--model DIR] [--episodes 64] [--group 8] [--turns 10] [--updates 5] [--image 63]

A small model plays each iteration behind the real engine core (not timed); its rewards are given by one half of its tokens, so
that every group has something to teach. Then the trainer's own function does the update: it reads the store, holds the trainer to
the sampler, takes an optimizer step, saves and exports. The learner stays in memory between updates, as it does in a worker's
child; ``load`` of the last update, and of the same by a fresh child, tell what that saves. The first update warms up, and is left
out of the seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from benchmarks.system import machine, save, scratch, spread

PHASES = ("load", "collect", "check", "score", "train", "save", "call")


def spec_of(model: Path, given: argparse.Namespace) -> Any:
    """The job."""
    from app import specs

    shown = {"rules": "none", "max_actions": 1, "max_tokens": given.reply, "image_only_mode": True}
    return specs.build(
        {
            "kind": "rl",
            "model": {"base": str(model)},
            "rollout": {
                "max_turns": given.turns,
                "episodes_per_batch": given.episodes,
                "max_concurrent_rollouts": given.episodes,
                "reply_format": "text",
                "env_config": {"image_size": given.image},
                "policy_config": shown,
            },
            "training": {"iterations": given.updates, "group_size": given.group, "batch_size": given.episodes},
            "lora": {"r": given.rank, "alpha": 2.0 * given.rank},
            "evaluation": {"seeds": "0-1"},
        }
    )


def measure(model: Path, given: argparse.Namespace) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Figures of every update, and of the last one done by a fresh child."""
    from app import specs
    from app.models import served_name
    from benchmarks.rl_play import Player, one_side, pay, play, submitted
    from workers.inference.core import Core
    from workers.model.loading import load
    from workers.trainer.child.held import Held
    from workers.trainer.child.ranks import Alone
    from workers.trainer.rl import update
    from workers.trainer.rl.runs import Runs

    spec = spec_of(model, given)
    job, good = submitted(spec, model), one_side(model)
    args = {"job": job.id, "spec": specs.resolved(spec), "base": str(model), "adapter": ""}
    runs, held, told = Runs(job.id), Held(Alone(), threading.Event()), []
    made = update.begin(args, _silent, held)
    for iteration in range(given.updates):
        loaded = load(model, device="cpu")
        core = Core(loaded)
        core.start()
        served = served_name(job.id, iteration + 1)
        player = Player(loaded, core, spec, served, core.load_adapter(served, made["path"]))
        play(job.id, spec, player, iteration)
        core.stop()
        pay(job.id, iteration, good)
        made = update.run({**args, "iteration": iteration, "version": iteration + 1}, _silent, held)
        told.append(made["figures"])
    last = given.updates - 1
    shutil.rmtree(runs.at(last))
    again = update.run({**args, "iteration": last, "version": last + 1}, _silent, Held(Alone(), threading.Event()))
    if again["sha256"] != made["sha256"]:
        print("the same update by a fresh child came to other weights")
    return told, again["figures"]


def _silent(event: dict[str, Any]) -> None:
    """Nobody listens."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The model, and how it plays."""
    parser.add_argument("--model", type=Path, help="a folder; default: a new tiny model")
    parser.add_argument("--reply", type=int, default=3, help="most tokens of a reply")
    parser.add_argument("--image", type=int, default=63, help="side of a frame in pixels")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter")


def at_home(folder: Path, given: argparse.Namespace) -> Path:
    """Make ``folder`` the home of this process, with an empty store; gives the model, a new tiny one where none was named."""
    os.environ["SYNTHQ_HOME"] = str(folder / "home")
    from app import migrate

    migrate.upgrade()
    import torch

    torch.set_num_threads(given.threads)
    if given.model is not None:
        return Path(given.model)
    model = folder / "tiny"
    subprocess.run([sys.executable, "-m", "workers.init_tiny", "tiny", str(model)], check=True, capture_output=True)
    return model


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--episodes", type=int, default=64, help="of an iteration")
    parser.add_argument("--group", type=int, default=8, help="episodes of one seed")
    parser.add_argument("--turns", type=int, default=10, help="of an episode")
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    with scratch() as folder:
        model = at_home(folder, given)
        told, fresh = measure(model.absolute(), given)
    print(machine())
    samples = told[0]["samples"]
    print(
        f"\n{given.updates} updates of {given.episodes} episodes x {given.turns} turns ({samples:.0f} samples), median (range):"
    )
    for phase in PHASES:
        seconds = [figures.get(f"seconds/{phase}", 0.0) for figures in told[1:] or told]
        if any(seconds):
            print(f"  {phase:9} {spread(seconds, 3)} s")
    print(f"  samples/s while training   {spread([figures['samples_per_s'] for figures in told], 1)}")
    print(f"  samples/s of a whole call  {spread([samples / figures['seconds/call'] for figures in told[1:] or told], 1)}")
    print(f"  KL of engine and trainer   {max(figures['parity/kl'] for figures in told):.2g} nats by token at the most")
    print(f"  peak memory                {max(figures['memory/peak_mib'] for figures in told):,.0f} MiB, the engine's with it")
    kept = told[-1]["seconds/load"]
    print(
        f"  load: kept in memory {kept:.3f} s, by a fresh child {fresh['seconds/load']:.3f} s (beside the start of its process)"
    )
    save("update", {"updates": told, "fresh": fresh})


if __name__ == "__main__":
    main()
