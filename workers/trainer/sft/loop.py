"""What the trainer's child does for an ``sft`` job: reads the lines, makes the learner or goes on with it, and trains."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from app.errors import BadModel, InvalidInput
from app.specs import parse
from app.specs.sft import SftSpec
from workers.trainer.child import Held
from workers.trainer.learner import Learner
from workers.trainer.sft.data import Data, Limits, kept_apart
from workers.trainer.sft.kept import Kept, state_of
from workers.trainer.sft.lines import Reading, reading
from workers.trainer.sft.plan import Plan, plan
from workers.trainer.sft.training import Lines, State, Training

log = logging.getLogger("synthq.trainer")

Tell = Callable[[dict[str, Any]], None]
LINES_AT_ONCE: Final = 64
"""Lines that are read between two looks at whether to stop."""


def run(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """Train; gives what came out and figures about it.

    ``args``: ``spec``; ``base`` and ``adapter``, folders to begin from, the adapter's may be empty; ``train`` and ``val``, each
    ``{"path", "name"}``, val may be null; ``folder``, where checkpoints are kept. Tells ``{"scope", "index", "values", "total"}``
    for a row of figures, ``{"done", "total"}`` while nothing else is to be told, ``{"warning"}`` and ``{"checkpoint"}``.
    """
    spec = parse("sft", args["spec"])
    assert isinstance(spec, SftSpec), "it was parsed as that"
    lines = _lines(spec, args, reading(args["base"]), tell, held)
    made = plan(spec, base=args["base"], adapter=args["adapter"], samples=len(lines.learnt), processes=held.size)
    for sentence in (*made.substituted, *_left_out(lines)):
        tell({"warning": sentence})
    kept = Kept(Path(args["folder"]))
    learner, state = _begin(made, kept, held, tell)
    begun = learner.steps
    training = Training(learner, lines, spec.sft, made, state, kept=kept, held=held, tell=tell)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    folder = training.run()
    return _told(training, folder, began_at=begun, wall_s=time.perf_counter() - began, processes=held.size)


def _lines(spec: SftSpec, args: dict[str, Any], by: Reading, tell: Tell, held: Held) -> Lines:
    """What to learn from, and what to try it on. Raises BadDataset, and InvalidInput for lines that do not fit the spec."""
    table = spec.sft

    def look(line: int) -> None:
        if line % LINES_AT_ONCE == 0:
            held.check()
            tell({"done": 0, "total": 0})

    limits = Limits(tokens=table.sequence_length, too_long=table.too_long, lines=table.max_lines)
    train = Data(Path(args["train"]["path"]), args["train"]["name"], by, limits, after_line=look)
    if not len(train):
        raise InvalidInput(f"{train.name} has no sample to learn from{_because(train)}")
    if table.supports_vision and not any(entry.pictures for entry in train.entries):
        raise InvalidInput(f"supports_vision = true, and no line of {train.name} shows a picture")
    everything = list(range(len(train)))
    if args["val"] is not None:
        same = Limits(tokens=table.sequence_length, too_long=table.too_long)
        val = Data(Path(args["val"]["path"]), args["val"]["name"], by, same, after_line=look)
        if not len(val):
            raise InvalidInput(f"{val.name} has no sample to try the model on{_because(val)}")
        return Lines(train=train, learnt=everything, val=val, tried=range(len(val)))
    if table.validation.enabled and table.validation.fraction:
        learnt, tried = kept_apart(train.entries, table.validation.fraction, table.seed)
        return Lines(train=train, learnt=learnt, val=train, tried=tried)
    return Lines(train=train, learnt=everything, val=train, tried=())


def _because(data: Data) -> str:
    return f': all {data.dropped} are longer than sequence_length, and too_long = "drop"' if data.dropped else ""


def _left_out(lines: Lines) -> list[str]:
    both = [lines.train] if lines.val is lines.train else [lines.train, lines.val]
    return [
        f"{data.dropped} of {data.dropped + len(data)} samples of {data.name} are longer than sequence_length and are left out"
        for data in both
        if data.dropped
    ]


def _begin(made: Plan, kept: Kept, held: Held, tell: Tell) -> tuple[Learner, State]:
    """The learner where it stands: at the newest checkpoint that can be read, or at its beginning."""
    for checkpoint in kept.checkpoints():
        try:
            learner = held.learner(made.settings, checkpoint)
            state = State(**state_of(checkpoint))
        except (BadModel, OSError) as error:
            tell({"warning": f"a checkpoint cannot be read, so the one before it is taken: {error}"})
            held.drop()
            continue
        log.info("going on from %s", checkpoint)
        return learner, state
    return held.learner(made.settings), State()


def _told(training: Training, folder: Path, *, began_at: int, wall_s: float, processes: int) -> dict[str, Any]:
    """What a job's summary is made of."""
    learner, state, lines = training.learner, training.state, training.lines
    seconds = max(state.seconds, 1e-9)
    return {
        "folder": str(folder),
        "of_step": training.result_step,
        "steps": learner.steps,
        "steps_planned": training.plan.steps,
        "stopped_early": training.stopped_early,
        "resumed_at": began_at,
        "epochs": round(learner.steps / training.plan.per_epoch, 4),
        "lines": lines.train.lines,
        "samples": len(lines.learnt),
        "samples_left_out": lines.train.dropped,
        "samples_learnt": state.samples,
        "tokens": state.tokens,
        "targets": state.targets,
        "loss": {"first": state.first_loss, "last": state.last_loss},
        "validation": None
        if state.last is None
        else {"samples": len(lines.tried), "best": {**(state.best or {}), "step": state.best_step}, "last": state.last},
        "trainer_mode": training.plan.settings.mode,
        "trained_parameters": learner.parameters,
        "base_sha256": learner.loaded.sha256,
        "seconds": round(state.seconds, 3),
        "wall_s": round(wall_s, 3),
        "samples_per_s": round(state.samples / seconds, 3),
        "tokens_per_s": round(state.tokens / seconds, 1),
        "device": _device(learner),
        "processes": processes,
        "sharding": training.plan.settings.sharding,
        "memory_bytes": _memory(),
    }


def _device(learner: Learner) -> str:
    device = learner.loaded.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _memory() -> int:
    """Most bytes that were in use at once: of the GPU where there is one, else of this process since it began."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
