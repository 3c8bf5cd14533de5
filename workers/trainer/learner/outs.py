"""What a pass over samples gives to a loss, what a loss gives back, and what many passes come to."""

# N targets of a pass.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.trainer.samples import Sample

Figure = float | Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PassOut:
    """One forward over some samples: of each target, in the order of ``samples`` and, within one, of its targets."""

    samples: tuple[Sample, ...]
    places: tuple[int, ...]
    """Where each sample stands in the list that was given."""
    logprobs: Tensor
    """float32 [N], with gradient: natural log, of the distribution at the sample's temperature."""
    entropy: Tensor
    """float32 [N], no gradient: of that distribution, in nats."""
    likeliest: Tensor
    """bool [N]: no token was likelier than the target."""
    sample: Tensor
    """int64 [N]: which of ``samples`` each target is of, rising."""
    base_logprobs: Tensor | None = None
    """float32 [N]: what was given for them as ``base_logprobs``, no gradient."""

    def flat(self, values: Iterable[NDArray[np.float32]]) -> Tensor:
        """float32 [N] on the learner's device, of one array per sample, such as their advantages."""
        parts = list(values)
        joined = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return torch.from_numpy(joined.astype(np.float32, copy=False)).to(self.logprobs.device)

    def per_target(self, values: Sequence[float]) -> Tensor:
        """float32 [N] on the learner's device, of one number per sample, such as their weights."""
        return torch.tensor(values, dtype=torch.float32, device=self.logprobs.device)[self.sample]


Loss = Callable[[PassOut], tuple[Tensor, Mapping[str, Figure]]]
"""A sum over the targets, or the samples, of a pass, to be made small, and figures about it.

Figures of several passes are added, so they are sums as well; those whose names end in ``_max`` or ``_min`` are not added, the
largest or smallest is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What passes over all samples, of all ranks, came to."""

    loss: float = 0.0
    """What the gradient is of: the sum of the loss, scaled."""
    figures: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    targets: int = 0
    tokens: int = 0
    """Of the samples."""
    padded: int = 0
    """Tokens that went through the model, padding counted."""
    passes: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        figures = dict(self.figures)
        for name, value in other.figures.items():
            figures[name] = _joined(name, figures[name], value) if name in figures else value
        return Tally(
            loss=self.loss + other.loss,
            figures=figures,
            samples=self.samples + other.samples,
            targets=self.targets + other.targets,
            tokens=self.tokens + other.tokens,
            padded=self.padded + other.padded,
            passes=self.passes + other.passes,
        )


def _joined(name: str, one: float, other: float) -> float:
    if name.endswith("_max"):
        return max(one, other)
    return min(one, other) if name.endswith("_min") else one + other
