"""What tests have several processes do with a learner whose weights may be dealt out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from learner_kit import CHOICES, imitate, mixed, sample, train_together
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from workers.trainer.child import Held
from workers.trainer.learner import Learner, PassOut, Settings
from workers.trainer.learner.shards import collected
from workers.trainer.samples import Sample

Tell = Callable[[dict[str, Any]], None]
STEPS, SAMPLES = 3, 5


def settings(base: str | Path, mode: str, **changes: Any) -> Settings:
    """What is trained: so that five samples are five passes, and the last round has one for one process alone."""
    return Settings(base=str(base), device="cpu", tokens_per_pass=60, **{**CHOICES[mode], **changes})


def samples_of(learner: Learner, step: int) -> list[Sample]:
    """Without pictures in the second step; with some in one process's passes alone in the third."""
    pictures = {0: [1] * SAMPLES, 1: [0] * SAMPLES, 2: [0, 1, 0, 2, 0]}[step % 3]
    return [
        sample(learner.loaded, 10 * step + i, tokens=20 + 8 * i, pictures=pictures[i], weight=0.5 + i) for i in range(SAMPLES)
    ]


def masks_some(out: PassOut) -> tuple[Tensor, Mapping[str, Any]]:
    """The loss of samples whose weight is not 0.5; a pass of such a one alone teaches nothing."""
    value, figures = imitate(out)
    return (value if any(one.weight != 0.5 for one in out.samples) else value.detach()), figures


def masks_all(out: PassOut) -> tuple[Tensor, Mapping[str, Any]]:
    """Nothing to learn."""
    value, figures = imitate(out)
    return value.detach(), figures


def trained(learner: Learner, steps: range) -> dict[str, Any]:
    """Steps, and what came of them: the tally and the figures of each."""
    tallies, told = [], []
    for step in steps:
        samples = samples_of(learner, step)
        tally = learner.accumulate(samples, masks_some if step == 1 else imitate, scale=1 / 15)
        tallies.append([tally.loss, tally.samples, tally.tokens, tally.passes, *tally.figures.values()])
        told.append(list(learner.step().values()))
    return {"tallies": tallies, "told": told}


def scores(learner: Learner) -> list[list[float]]:
    """Log-probabilities of samples of all kinds."""
    return [values.tolist() for values in learner.logprobs(mixed(learner.loaded))]


def learn(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """Train from a checkpoint, or from the beginning, and leave a checkpoint and an export."""
    learner = held.learner(settings(args["base"], args["mode"], **args["changes"]), args.get("at", ""))
    folder = Path(args["folder"])
    told = trained(learner, range(learner.steps, args["steps"]))
    told["logprobs"] = scores(learner)
    learner.save(folder / "checkpoint")
    told["sha256"] = learner.export(folder / "exported")
    learner.accumulate(samples_of(learner, 0), masks_all, scale=1.0)
    told["norm_of_nothing"] = learner.step()["grad_norm"]
    return told


def together(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """Train a model that every process holds whole; what each of them tells."""
    told = train_together(Path(args["base"]), args["mode"], Path(args["folder"]))
    each: list[Any] = [None] * held.size
    distributed.all_gather_object(each, told)
    return {"each": each}


def look(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """Gradients of one accumulation, what each process holds, and which weights are dealt out."""
    learner = held.learner(settings(args["base"], args["mode"], **args["changes"]))
    learner.accumulate(samples_of(learner, 2), imitate, scale=1 / 15)
    held_bytes = learner.bytes_held
    weights = dict(learner.loaded.model.named_parameters())
    grads = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    told: dict[str, Any] = {"dealt": [name for name, weight in weights.items() if isinstance(weight, DTensor)]}
    whole = collected(grads)
    if held.rank == 0:
        torch.save(whole, args["file"])
    learner.step()
    held_bytes["optimizer"] = learner.bytes_held["optimizer"]
    told["bytes"] = held_bytes
    return told


def die(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """The second process is killed in the middle of a pass, while the first one waits for its part of a layer."""
    learner = held.learner(settings(args["base"], args["mode"], **args["changes"]))

    def killed(out: PassOut) -> tuple[Tensor, Mapping[str, Any]]:
        if held.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return imitate(out)

    learner.accumulate(samples_of(learner, 0), killed)
    return {}


def stumble(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """A loss that goes wrong in one process, or in all."""
    learner = held.learner(settings(args["base"], args["mode"], **args["changes"]))

    def wrong(out: PassOut) -> tuple[Tensor, Mapping[str, Any]]:
        if args.get("rank") in (None, held.rank):
            raise ValueError("no good")
        return imitate(out)

    learner.accumulate(samples_of(learner, 0), wrong)
    return {"size": distributed.get_world_size()}
