"""The training itself: step after step, tried on other lines now and then, and left so that it can go on exactly from there.

Where it stands is the number of steps that the learner has taken; everything else follows from that and the spec.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from app.specs.sft import SftTable
from workers.trainer.child import Cancelled, Held
from workers.trainer.learner import Learner, PassOut, Tally
from workers.trainer.samples import Sample
from workers.trainer.sft.data import Data
from workers.trainer.sft.kept import BEST, LAST, Kept
from workers.trainer.sft.order import steps_of
from workers.trainer.sft.plan import Plan

TRIED_AT_ONCE: Final = 64
"""Samples that are measured between two looks at whether to stop."""


def imitation(out: PassOut) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus the sum of the targets' log-probabilities; how many targets were the likeliest tokens; the sum of the entropies."""
    return -out.logprobs.sum(), {"right": out.likeliest.sum(), "entropy": out.entropy.sum()}


@dataclass(slots=True, kw_only=True)
class State:
    """What goes with a checkpoint beside the learner's own."""

    samples: int = 0
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0
    """Spent in steps."""
    first_loss: float | None = None
    last_loss: float | None = None
    """Of the last row of figures."""
    tried: int = 0
    """The step at which it was last tried on the validation lines."""
    best_step: int = 0
    best: dict[str, float] | None = None
    """Figures of the least loss on the validation lines."""
    last: dict[str, float] | None = None
    """Figures of the last try."""
    worse: int = 0
    """Tries since then."""
    row: dict[str, float] | None = None
    """Sums over the steps since the last row of figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """What is learnt from, and what it is tried on."""

    train: Data
    learnt: Sequence[int]
    """Numbers of samples in ``train``."""
    val: Data
    tried: Sequence[int]
    """Numbers of samples in ``val``; none: it is not tried."""


class Training:
    """One job's training in this process."""

    def __init__(
        self,
        learner: Learner,
        lines: Lines,
        table: SftTable,
        plan: Plan,
        state: State,
        *,
        kept: Kept,
        held: Held,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self.learner, self.lines, self.table, self.plan, self.state = learner, lines, table, plan, state
        self._kept, self._held, self._tell = kept, held, tell
        self._lengths = [lines.train.entries[number].tokens for number in lines.learnt]
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def run(self) -> Path:
        """Train to the end; gives the folder of what came out. Raises Cancelled, with a checkpoint left."""
        try:
            self._try_if_due()  # whoever left may have left in the middle of it
            while self.learner.steps < self.plan.steps and not self.stopped_early:
                self._held.check()
                self._step()
                self._try_if_due()
                if self.learner.steps % self.table.checkpoint_steps == 0:
                    self._checkpoint()
            return self._result()
        except Cancelled:
            if self.learner.steps:
                self._held.keep(self._checkpoint())
            raise

    @property
    def stopped_early(self) -> bool:
        """No try has been better for as long as the spec bears."""
        return self.table.validation.patience is not None and self.state.worse >= self.table.validation.patience

    # -- a step ---------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        began = time.perf_counter()
        samples = [self.lines.train.sample(number) for number in self._numbers()]
        tally = self.learner.accumulate(samples, imitation, scale=1 / sum(len(sample.targets) for sample in samples))
        told = self.learner.step()
        seconds = time.perf_counter() - began
        state = self.state
        state.samples += tally.samples
        state.tokens += tally.tokens
        state.targets += tally.targets
        state.seconds += seconds
        if state.first_loss is None:
            state.first_loss = tally.loss
        state.row = _added(state.row, tally, seconds)
        if self.learner.steps % self.table.log_interval == 0 or self.learner.steps == self.plan.steps:
            self._figures(told)

    def _numbers(self) -> list[int]:
        """Which samples the next step takes."""
        epoch, place = divmod(self.learner.steps, self.plan.per_epoch)
        if self._epoch[0] != epoch:
            table = self.table
            self._epoch = (
                epoch,
                steps_of(
                    self._lengths,
                    seed=table.seed,
                    epoch=epoch,
                    batch=table.batch_size,
                    batches=table.gradient_accumulation_steps,
                ),
            )
        return [self.lines.learnt[number] for number in self._epoch[1][place]]

    def _figures(self, told: dict[str, float]) -> None:
        row, self.state.row = self.state.row or {}, None
        self.state.last_loss = row["nll"] / row["targets"]
        values = {
            "loss": self.state.last_loss,
            "accuracy": row["right"] / row["targets"],
            "entropy": row["entropy"] / row["targets"],
            "grad_norm": told["grad_norm"],
            "learning_rate": told["learning_rate"],
            "epoch": self.learner.steps / self.plan.per_epoch,
            "samples_per_s": row["samples"] / row["seconds"],
            "tokens_per_s": row["tokens"] / row["seconds"],
            "padding": 1 - row["tokens"] / row["padded"],
        }
        self._tell_of("train", values)

    def _tell_of(self, scope: str, values: dict[str, float]) -> None:
        self._tell({"scope": scope, "index": self.learner.steps, "values": values, "total": self.plan.steps})

    # -- a try ----------------------------------------------------------------------------------------------------------

    def _try_if_due(self) -> None:
        """Try it on the validation lines, once at each step where that is due."""
        step = self.learner.steps
        every = self.table.validation.eval_steps or self.plan.per_epoch
        due = step % every == 0 or step >= self.plan.steps
        if self.lines.tried and step and due and self.state.tried < step:
            self._try()

    def _try(self) -> None:
        total = Tally()
        for at in range(0, len(self.lines.tried), TRIED_AT_ONCE):
            self._held.check()
            total = total.plus(self.learner.measure(self._chosen(at), imitation))
            self._tell({"done": self.learner.steps, "total": self.plan.steps})
        found = {
            "loss": total.loss / total.targets,
            "accuracy": total.figures["right"] / total.targets,
            "entropy": total.figures["entropy"] / total.targets,
        }
        state = self.state
        better = state.best is None or found["loss"] < state.best["loss"]
        if better and self.table.validation.save_best:
            self._kept.best(self.learner)
        if better:
            state.best, state.best_step = found, self.learner.steps
        state.worse = 0 if better else state.worse + 1
        state.last, state.tried = found, self.learner.steps
        self._tell_of("val", found)

    def _chosen(self, at: int) -> list[Sample]:
        return [self.lines.val.sample(number) for number in self.lines.tried[at : at + TRIED_AT_ONCE]]

    # -- folders --------------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> Path:
        path = self._kept.save(self.learner, asdict(self.state))
        self._tell({"checkpoint": path.name})
        return path

    @property
    def result_step(self) -> int:
        """The step whose model is what comes out."""
        best = self.state.best is not None and self.table.validation.save_best
        return self.state.best_step if best else self.learner.steps

    def _result(self) -> Path:
        if self.state.best is not None and self.table.validation.save_best:
            return self._kept.path(BEST, self.state.best_step)
        return self._kept.export(self.learner, LAST)


def _added(row: dict[str, float] | None, tally: Tally, seconds: float) -> dict[str, float]:
    """The sums of a row with one step more."""
    more = {
        "nll": tally.loss * tally.targets,
        "right": tally.figures["right"],
        "entropy": tally.figures["entropy"],
        "samples": tally.samples,
        "targets": tally.targets,
        "tokens": tally.tokens,
        "padded": tally.padded,
        "seconds": seconds,
    }
    return {name: value + (row or {}).get(name, 0.0) for name, value in more.items()}
