"""The one thing that trains: it scores samples, takes gradients of a loss over them, and steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import BadModel, InvalidInput
from app.model_folder import VISION
from workers.model.loading import Loaded
from workers.model.sights import Sights
from workers.trainer.learner import checkpoint, ranks
from workers.trainer.learner.export import export_adapter, export_model, state_of
from workers.trainer.learner.forward import Forward, Scores
from workers.trainer.learner.optimizer import Optimizer
from workers.trainer.learner.outs import Loss, PassOut, Tally
from workers.trainer.learner.prepare import drawing, prepare
from workers.trainer.learner.rows import Batch, Row, collate, cut, read
from workers.trainer.learner.settings import Settings
from workers.trainer.learner.shards import bytes_here, collected
from workers.trainer.learner.trunk import Trunk, depth_of
from workers.trainer.samples import Sample

Floats = NDArray[np.float32]
T = TypeVar("T")

TOGETHER: Final = {"cpu": 2560}
"""Most tokens of a pass, whatever the settings allow: what stays in a CPU's caches, a tenth or two faster than more at once."""


class Learner:
    """A model that learns. One thread uses it; where there are several processes, all call the same methods alike.

    Samples go through in passes of like length; losses are sums, so that it is the same how they are cut. An error, or what
    ``check`` raises, leaves it as it was after its last step.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises what ``workers.model.loading.load`` does, BadModel for an adapter that is none, InvalidInput and NotHere."""
        self.settings = settings
        self._prepared = prepare(settings)
        model = self._prepared.loaded.model
        self._sights = Sights(model, settings.picture_cache_bytes, learns=settings.mode == "full")
        self._shards = self._prepared.shards
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        # where weights are dealt out, a process that computes nothing would leave the others waiting
        self._trunk = Trunk(0 if self._shards.dealt else depth_of(self._weights, model), settings.trunk_cache_bytes)
        self._forward = Forward(
            model,
            self._sights,
            self._trunk,
            dtype=self._prepared.dtype,
            checkpointing=settings.gradient_checkpointing,
            shards=self._shards,
        )
        self._optimizer = Optimizer(self._weights, settings)
        self._passes = 0  # begun since the last step
        self._moved = 0  # by those, as ``_learn`` tells it
        self.steps = 0
        """Optimizer steps that it has taken."""
        self.check: Callable[[], None] = lambda: None
        """Called before every pass, by several processes as often by each; what it raises ends the call."""

    @property
    def loaded(self) -> Loaded:
        """The model, and what has to be known of it."""
        return self._prepared.loaded

    @property
    def parameters(self) -> int:
        """How many numbers train."""
        return sum(weight.numel() for weight in self._weights.values())

    @property
    def bytes_held(self) -> dict[str, int]:
        """Bytes that this process holds between passes: of ``weights``, ``gradients`` and what the ``optimizer`` remembers."""
        weights = list(self.loaded.model.parameters())
        return {
            "weights": bytes_here(weights),
            "gradients": bytes_here(weight.grad for weight in weights if weight.grad is not None),
            "optimizer": bytes_here(self._optimizer.moments().values()),
        }

    # -- samples --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logprobs(self, samples: Sequence[Sample], *, base: bool = False) -> list[Floats]:
        """float32 [targets] of each sample: natural log, at its temperature; ``base``: of the model without its adapter.

        Raises InvalidInput, with a sample's key, for one that cannot be learned from, and for ``base`` in mode ``full``.
        """
        rows = [read(sample, self.loaded) for sample in samples]
        if base:
            if self._prepared.adapted is None:
                raise InvalidInput("a model that trains as a whole has no base beside it to be compared with; train an adapter")
            with self._prepared.adapted.disable_adapter():
                return self._scored(rows)
        return self._scored(rows)

    def _scored(self, rows: Sequence[Row]) -> list[Floats]:

        def score(number: int, places: list[int], others: Sequence[list[int]]) -> dict[int, Floats]:
            batch = self._batch(rows, places)
            told = self._forward(batch, dropout=False, pictured=_pictured(rows, others)).logprobs.cpu().numpy()
            ends = np.cumsum([len(rows[place].sample.targets) for place in places])
            return dict(zip(places, np.split(told, ends[:-1]), strict=True))

        found = {place: values for part in self._through(self._cut(rows), score) for place, values in part.items()}
        return [found[place] for place in range(len(rows))]

    @torch.no_grad()
    def states(self, samples: Sequence[Sample]) -> list[Floats]:
        """float32 [W] of each sample: what the model made of it before its first target, which is predicted from that.

        Raises InvalidInput, with a sample's key, for one that cannot be learned from, or has no target.
        """
        if bare := next((sample.key for sample in samples if not sample.targets), None):
            raise InvalidInput(f"{bare} has no target, so nothing is predicted from it")
        rows = [_of_first(read(sample, self.loaded)) for sample in samples]

        def look(number: int, places: list[int], others: Sequence[list[int]]) -> dict[int, Floats]:
            states = self._forward.states(self._batch(rows, places), pictured=_pictured(rows, others))
            return dict(zip(places, states.float().cpu().numpy(), strict=True))

        found = {place: values for part in self._through(self._cut(rows), look) for place, values in part.items()}
        return [found[place] for place in range(len(rows))]

    def accumulate(
        self, samples: Sequence[Sample], loss: Loss, *, scale: float = 1.0, base_logprobs: Sequence[Floats] | None = None
    ) -> Tally:
        """Forward and backward of samples; gradients of ``scale`` times the loss are added to those that are there.

        ``loss`` is called for every pass. ``base_logprobs`` is what ``logprobs(samples, base=True)`` gave, for losses that need
        it. Raises InvalidInput, with a sample's key, for one that cannot be learned from.
        """
        try:
            tally = self._tallied(samples, loss, scale, base_logprobs, dropout=True)
        except BaseException:
            self._forget()
            raise
        self._passes += tally.passes
        return tally

    @torch.no_grad()
    def measure(self, samples: Sequence[Sample], loss: Loss, *, scale: float = 1.0) -> Tally:
        """What a loss comes to, without dropout; nothing is learned from these samples. Raises as ``accumulate`` does."""
        return self._tallied(samples, loss, scale, None, dropout=False)

    def _tallied(
        self,
        samples: Sequence[Sample],
        loss: Loss,
        scale: float,
        base_logprobs: Sequence[Floats] | None,
        *,
        dropout: bool,
    ) -> Tally:
        rows = [read(sample, self.loaded) for sample in samples]
        passes = self._cut(rows)

        def learn(number: int, places: list[int], others: Sequence[list[int]]) -> tuple[Tally, int]:
            batch = self._batch(rows, places)
            with self._drawing(self._passes + number):
                scores = self._forward(batch, dropout=dropout, pictured=_pictured(rows, others))
                if number >= len(passes):
                    return self._alongside(scores)
                return self._learn(rows, places, batch, scores, loss, scale, base_logprobs)

        total = Tally()
        for part, moved in self._through(passes, learn):
            total, self._moved = total.plus(part), max(self._moved, moved)
        return total

    def _through(self, passes: Sequence[list[int]], work: Callable[[int, list[int], Sequence[list[int]]], T]) -> list[T]:
        """What came of all passes, in the order of the processes and their passes; see ``ranks.through``."""
        in_step = self._shards.dealt
        try:
            parts = ranks.together(lambda: ranks.through(passes, work, self.check, in_step=in_step), in_step=in_step)
        except BaseException:
            self._shards.reset()
            raise
        return [made for part in parts for made in part]

    def _alongside(self, scores: Scores) -> tuple[Tally, int]:
        """Go back through a pass that teaches nothing: where weights are dealt out, no other process can without this one."""
        if self._shards.dealt and scores.logprobs.requires_grad:
            (0 * scores.logprobs.sum()).backward()
        return Tally(), 0

    def _learn(
        self,
        rows: Sequence[Row],
        places: Sequence[int],
        batch: Batch,
        scores: Scores,
        loss: Loss,
        scale: float,
        base_logprobs: Sequence[Floats] | None,
    ) -> tuple[Tally, int]:
        """What a pass came to, and what it moves: 0 nothing, 1 the language model, 2 the vision tower too."""
        base = None
        if base_logprobs is not None:
            base = torch.from_numpy(np.concatenate([base_logprobs[place] for place in places])).to(self.loaded.device)
        out = PassOut(
            samples=tuple(rows[place].sample for place in places),
            places=tuple(places),
            logprobs=scores.logprobs,
            entropy=scores.entropy,
            likeliest=scores.likeliest,
            sample=batch.sample,
            base_logprobs=base,
        )
        value, figures = loss(out)
        scaled = value * scale
        moved = 0
        if scaled.requires_grad:  # a loss may mask all that a pass has
            scaled.backward()
            moved = 2 if batch.pictures else 1
        else:
            self._alongside(scores)
        tally = Tally(
            loss=float(scaled.detach()),
            figures={name: float(figure.detach() if isinstance(figure, Tensor) else figure) for name, figure in figures.items()},
            samples=len(places),
            targets=len(batch.targets),
            tokens=sum(len(rows[place].ids) for place in places),
            padded=batch.ids.numel(),
            passes=1,
        )
        return tally, moved

    def _cut(self, rows: Sequence[Row]) -> list[list[int]]:
        most = self.settings.tokens_per_pass
        return cut(rows, min(most, TOGETHER.get(self.loaded.device.type, most)))

    def _batch(self, rows: Sequence[Row], places: Sequence[int]) -> Batch:
        return collate([rows[place] for place in places], self.loaded.device)

    def _drawing(self, number: int) -> AbstractContextManager[None]:
        """Have a pass draw what its number since the last step says, whichever process it is on."""
        named = f"{self.settings.seed}:{self.steps}:{number}".encode()
        seed = int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "little") >> 1
        return drawing(seed, self.loaded.device) if self._forward.draws else nullcontext()

    # -- steps ----------------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """Take an optimizer step with the gradients that are there; ``grad_norm`` before clipping, and ``learning_rate``.

        Raises StepFailed, having changed nothing, when the gradients are no numbers.
        """
        try:
            ranks.add_gradients(list(self._weights.values()))
            if self._shards.dealt:
                self._leave_unmoved()
            told = self._optimizer.step(self.steps)
        except BaseException:
            self._forget()
            raise
        self.steps += 1
        self._passes = self._moved = 0
        return told

    def _leave_unmoved(self) -> None:
        """Have no gradient where one process alone would have none: one of zeros still goes on where those before it went."""
        for name, weight in self._weights.items():
            if self._moved < (2 if VISION in name else 1):
                weight.grad = None

    def restart(self) -> None:
        """Have the weights that are there and nothing of how they were come by: no steps, and an optimizer that is new."""
        self._forget()
        self._optimizer.recall({})
        self.steps = 0

    def _forget(self) -> None:
        """Be as after the last step."""
        self._optimizer.forget()
        self._passes = self._moved = 0

    def forget_seen(self) -> None:
        """Hold nothing of samples that were seen, so that the last digits of what comes do not depend on what went before."""
        self._sights.cache.clear()
        self._trunk.cache.clear()

    # -- folders --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write all that is needed to go on exactly from here, whole or not at all; ``extra`` are JSON values for the caller.

        It is between steps that a learner is saved: gradients that have not been stepped with are not part of it. Afterwards it
        is what one is that was restored, and has forgotten what it saw. Raises InvalidInput when there is something at
        ``folder`` already.
        """
        if self._passes:
            raise InvalidInput(f"{self._passes} passes have been added up since the last step; step before saving")
        self.forget_seen()
        facts = {**self._kind(), "steps": self.steps, "extra": dict(extra or {})}
        trained, moments = collected(self._weights), collected(self._optimizer.moments())
        self._by_first(lambda: checkpoint.write(folder, facts, trained, moments))

    def restore(self, folder: Path) -> dict[str, Any]:
        """Go on from what ``save`` wrote; gives its ``extra``. Raises BadModel for what is none, or another learner's."""
        facts, found, moments = checkpoint.read(folder)
        for name, mine in self._kind().items():
            if facts.get(name) != mine:
                raise BadModel(f"{folder} is of another learner: its {name} is {facts.get(name)!r}, and here it is {mine!r}")
        checkpoint.load_weights(self._weights, found, folder)
        self._optimizer.recall(moments)
        self.forget_seen()
        self.steps, self._passes = int(facts["steps"]), 0
        extra: dict[str, Any] = facts["extra"]
        return extra

    def _kind(self) -> dict[str, Any]:
        """What the same weights would mean something else without."""
        return {"mode": self.settings.mode, "scale": self._prepared.scale, "base_sha256": self.loaded.sha256}

    def export(self, folder: Path) -> str:
        """Write what was trained as a folder of its own, whole or not at all, and give its sha256.

        An adapter is a folder as peft reads it; a model that trained as a whole is one as transformers does, in its base's
        precision, with tokenizer, chat template and settings. Raises InvalidInput when there is something at ``folder``.
        """
        if self._prepared.adapted is not None:
            return str(self._by_first(lambda: export_adapter(self._prepared, folder, steps=self.steps)))
        state = state_of(self._prepared)
        return str(self._by_first(lambda: export_model(self._prepared, state, folder, steps=self.steps)))

    def _by_first(self, write: Callable[[], T]) -> T | None:
        """Have the first process do what only one may; what that gives, on all."""
        return ranks.together(lambda: write() if ranks.world()[0] == 0 else None)[0]


def _pictured(rows: Sequence[Row], passes: Sequence[Sequence[int]]) -> bool:
    """Whether any of some passes has pictures."""
    return any(rows[place].sample.pictures for places in passes for place in places)


def _of_first(row: Row) -> Row:
    """The row with its first target alone. It was read with all: which image tokens are text is told by them."""
    sample = replace(row.sample, targets=row.sample.targets[:1], logprobs=None, advantages=None)
    return row._replace(sample=sample)
