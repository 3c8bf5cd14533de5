"""Is an update the same however its samples are cut? Loss and gradient by micro-batch, and what each size makes of the time.

    python -m benchmarks.bench_microbatch [--model DIR] [--sizes 1 2 4 8] [--episodes 16] [--group 8] [--turns 8] [--rounds 3]

A small model plays an iteration behind the real engine core; its rewards are given by one half of its tokens, so that every group
has something to teach. After one step, so that both matrices of the adapter have a gradient, its samples go forward and backward
with the advantages and the loss of an update, in micro-batches of so many, which only add up. Told are, against micro-batches of
one: the difference of the loss, in parts of what the samples' losses come to without their signs, for with them they come to
almost nothing; that of the gradient's length; and the gradient's own (the length of the difference in parts of its length, its
largest number in parts of the largest). ``whole`` is how the trainer does it: all at once, cut into passes by
``training.tokens_per_pass``.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_update import add_flags, at_home, spec_of
from benchmarks.system import machine, save, scratch, spread


def samples_of(model: Path, given: argparse.Namespace) -> tuple[Any, Any, list[Any]]:
    """A learner at the beginning of a job, its options, and an iteration's samples with their advantages."""
    from app import specs
    from app.models import served_name
    from benchmarks.rl_play import Player, one_side, pay, play, submitted
    from workers.inference.core import Core
    from workers.model.loading import load
    from workers.trainer.child.held import Held
    from workers.trainer.child.ranks import Alone
    from workers.trainer.objective.advantages import estimate
    from workers.trainer.rl import update
    from workers.trainer.rl.collect import collect
    from workers.trainer.rl.options import Options, settings
    from workers.trainer.rl.runs import Runs

    spec = spec_of(model, given)
    job, held = submitted(spec, model), Held(Alone(), threading.Event())
    made = update.begin(
        {"job": job.id, "spec": specs.resolved(spec), "base": str(model), "adapter": ""}, lambda event: None, held
    )
    loaded = load(model, device="cpu")
    core = Core(loaded)
    core.start()
    served = served_name(job.id, 1)
    play(job.id, spec, Player(loaded, core, spec, served, core.load_adapter(served, made["path"])), 0)
    core.stop()
    pay(job.id, 0, one_side(model))
    runs, options = Runs(job.id), Options.of(spec)
    learner = held.learner(settings(spec, str(model), ""), runs.state(runs.before))
    images, image_id = learner.loaded.images, learner.loaded.image_id
    found = collect(job.id, 0, options.play, version=1, images=images, image_id=image_id)
    worth = [estimate(options.estimator, group, options.advantages).advantages for group in found.groups]
    samples = [
        replace(sample, advantages=np.full(len(sample.targets), worth[at.group][at.episode][at.turn], np.float32))
        for sample, at in zip(found.shown.of(found.samples), found.places, strict=True)
    ]
    return learner, options, samples


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the samples come to in micro-batches of one size."""

    loss: float
    unsigned: float
    """The sum of the micro-batches' losses without their signs."""
    gradient: np.ndarray
    """All of it in one row, float64."""
    seconds: float

    @property
    def length(self) -> float:
        """Of the gradient."""
        return float(np.linalg.norm(self.gradient))


def gradient(learner: Any, options: Any, samples: Sequence[Any], size: int) -> Found:
    """The loss and the gradient in micro-batches of ``size``. Nothing is stepped."""
    from workers.trainer.objective.losses import Objective

    weights = [weight for _, weight in sorted(learner.loaded.model.named_parameters()) if weight.requires_grad]
    objective = Objective(options.loss, options.losses, old=None)
    scale = 1 / objective.units(samples)
    learner.forget_seen()
    starts, began = range(0, len(samples), size), time.monotonic()
    losses = [learner.accumulate(samples[start : start + size], objective, scale=scale).loss for start in starts]
    seconds = time.monotonic() - began
    row = np.concatenate([weight.grad.detach().double().numpy().ravel() for weight in weights if weight.grad is not None])
    for weight in weights:
        weight.grad = None
    return Found(loss=sum(losses), unsigned=sum(map(abs, losses)), gradient=row, seconds=seconds)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1, 2, 4, 8], help="samples of a micro-batch; the first is compared with"
    )
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--group", type=int, default=8, help="episodes of one seed")
    parser.add_argument("--turns", type=int, default=8, help="of an episode")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    given.updates = 1
    with scratch() as folder:
        model = at_home(folder, given)
        from workers.trainer.objective.losses import Objective

        learner, options, samples = samples_of(model.absolute(), given)
        sizes = [*given.sizes, len(samples)]
        learner.accumulate(samples, Objective(options.loss, options.losses), scale=1 / len(samples))
        learner.step()
        found: dict[int, list[Found]] = {size: [] for size in sizes}
        for _ in range(given.rounds):
            for size in sizes:
                found[size].append(gradient(learner, options, samples, size))
    told(found, len(samples), given)


def told(found: dict[int, list[Found]], count: int, given: argparse.Namespace) -> None:
    """The table."""
    first = found[given.sizes[0]][0]
    print(machine())
    print(
        f"\n{count} samples, {given.rounds} rounds, {given.threads} threads; loss {first.loss:.6g}, {first.unsigned:.6g} without"
    )
    print(f"signs; gradient {first.length:.6g} long, of {len(first.gradient):,} numbers")
    print(f"largest difference of all rounds from micro-batches of {given.sizes[0]}:")
    print(f"  {'micro-batch':12}{'loss':>12}{'length':>12}{'gradient':>12}{'largest':>12}   samples/s")
    figures = {}
    for size, rounds in found.items():
        worst = [max(values) for values in zip(*(_apart(each, first) for each in rounds), strict=True)]
        speed = [count / each.seconds for each in rounds]
        name = "whole" if size == count else str(size)
        print(f"  {name:12}" + "".join(f"{value:12.2e}" for value in worst) + f"   {spread(speed, 1)}")
        figures[name] = dict(zip(("loss", "length", "gradient", "largest"), worst, strict=True)) | {"samples_per_s": speed}
    save("microbatch", {"samples": count, "loss": first.loss, "length": first.length, "by_size": figures})


def _apart(one: Found, other: Found) -> tuple[float, float, float, float]:
    """How far one is from the other: loss, length of the gradient, the gradient, its largest number."""
    off = one.gradient - other.gradient
    return (
        abs(one.loss - other.loss) / other.unsigned,
        abs(one.length - other.length) / other.length,
        float(np.linalg.norm(off)) / other.length,
        float(np.abs(off).max() / np.abs(other.gradient).max()),
    )


if __name__ == "__main__":
    main()
