"""What an update makes of probabilities, as pure functions of flat tensors. torch; no model, no I/O.

# T targets of a pass, all replies in a row; R replies. ``reply_T`` is the place of each target's reply, 0 to R - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    """Which target belongs to which reply."""

    reply_T: Tensor
    """int64 [T]."""
    lengths_R: Tensor
    """[R]: targets of each reply, 1 at the least."""

    def sums(self, values_T: Tensor) -> Tensor:
        """[R]: sums over each reply's targets."""
        return values_T.new_zeros(len(self.lengths_R)).index_add(0, self.reply_T, values_T)

    def means(self, values_T: Tensor) -> Tensor:
        """[R]: means over each reply's targets."""
        return self.sums(values_T) / self.lengths_R

    def spread(self, values_R: Tensor) -> Tensor:
        """[T]: each reply's value for each of its targets."""
        return values_R[self.reply_T]


def surrogate(ratio: Tensor, advantage: Tensor, *, low: float, high: float) -> tuple[Tensor, Tensor]:
    """PPO's clipped gain (arXiv 1707.06347) with bounds of its own on either side (DAPO, arXiv 2503.14476), and where it is
    clipped: 1.0 where the bound, and so no gradient, is what counts."""
    free, held = ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage
    return torch.minimum(free, held), (held < free).to(ratio.dtype)


def truncated(log_ratio: Tensor, cap: float) -> Tensor:
    """Importance weights that are cut off at ``cap``; no gradient. What one side found far likelier must not weigh without bound.

    Truncated importance sampling between a sampler and a trainer whose numbers differ.
    """
    return log_ratio.detach().exp().clamp(max=cap)


def kept(log_ratio_R: Tensor, *, low: float, high: float) -> Tensor:
    """[R] 1.0 for replies whose geometric mean ratio, of which this is the logarithm, is from ``low`` to ``high``; else 0.0."""
    ratio_R = log_ratio_R.detach().exp()
    return ((ratio_R >= low) & (ratio_R <= high)).to(log_ratio_R.dtype)


def k1(of: Tensor, to: Tensor) -> Tensor:
    """log of/to for tokens that were drawn from ``of``: its mean estimates KL(of || to). May be negative."""
    return of - to


def k3(of: Tensor, to: Tensor) -> Tensor:
    """The same estimate with less spread, and never negative: r - 1 - log r with r = to/of."""
    log_ratio = to - of
    return torch.expm1(log_ratio) - log_ratio
