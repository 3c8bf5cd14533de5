"""What is minimised: clipped gains of replies, weighed by their advantages. A registry; torch.

A loss gives the sum over a pass; who calls it divides by the units (``Objective.units``) of a whole optimizer step. So an update
comes out the same however it is cut into passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import InvalidInput, UnknownName
from workers.trainer.objective.ratios import Replies, k1, k3, kept, surrogate, truncated
from workers.trainer.samples import Sample

if TYPE_CHECKING:
    from workers.trainer.learner import PassOut

Logprobs = Mapping[str, NDArray[np.float32]]
"""Natural-log probabilities [targets] by a sample's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the losses leave open."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    """How far a ratio may fall and rise before it is clipped. For ``sequence`` the paper has 3e-4 and 4e-4."""
    cap: float = 2.0
    """Most that an importance weight between sampler and trainer counts; 0: there are none."""
    mask_low: float = 0.5
    mask_high: float = 2.0
    """A reply whose geometric mean ratio between trainer and sampler is outside counts for nothing."""
    kl_weight: float = 0.0
    """Of the distance from the base; 0: its log-probabilities are not needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A pass as a loss sees it."""

    logprobs_T: Tensor
    """Under the weights of now, with gradient."""
    old_T: Tensor
    """Under the weights that the update began with: what the ratio is taken to."""
    sampled_T: Tensor
    """Under the policy that sampled."""
    advantages_T: Tensor
    base_T: Tensor | None
    replies: Replies
    weights_R: Tensor
    """How much each reply counts beside others."""


Gain = Callable[[Terms, Options], tuple[Tensor, Tensor, Tensor]]
"""Gain of each target, spread over a reply where it is the reply's; the ratios; 1.0 where it is clipped: all [T]."""


def token(terms: Terms, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Each token's own ratio (GRPO, arXiv 2402.03300), with bounds on either side and a mean over tokens (DAPO, 2503.14476)."""
    ratio_T = (terms.logprobs_T - terms.old_T).exp()
    gain_T, clipped_T = surrogate(ratio_T, terms.advantages_T, low=options.clip_low, high=options.clip_high)
    return gain_T * _weight(terms.old_T - terms.sampled_T, options), ratio_T, clipped_T


def sequence(terms: Terms, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """One ratio for a reply, the geometric mean of its tokens': GSPO, arXiv 2507.18071."""
    replies = terms.replies
    ratio_R = replies.means(terms.logprobs_T - terms.old_T).exp()
    advantages_R = replies.means(terms.advantages_T)
    gain_R, clipped_R = surrogate(ratio_R, advantages_R, low=options.clip_low, high=options.clip_high)
    gain_R = gain_R * _weight(replies.means(terms.old_T - terms.sampled_T), options) / replies.lengths_R
    return replies.spread(gain_R), replies.spread(ratio_R), replies.spread(clipped_R)


def _weight(log_ratio: Tensor, options: Options) -> Tensor:
    return truncated(log_ratio, options.cap) if options.cap else torch.ones_like(log_ratio)


LOSSES: Final[dict[str, Gain]] = {"token": token, "sequence": sequence}


class Objective:
    """A loss for the passes of an update; a ``workers.trainer.learner.Loss``.

    Its figures: ``tokens``, ``replies`` and ``masked`` count; ``ratio_max`` is the largest; the others are sums over tokens.
    ``means`` makes of them what is reported.
    """

    def __init__(self, name: str, options: Options | None = None, *, old: Logprobs | None = None) -> None:
        """``old``: log-probabilities of the update's samples under the weights that it begins with; None: those of the sampler
        are taken for them, which is right as long as the two agree. Raises UnknownName.
        """
        if name not in LOSSES:
            raise UnknownName("loss", name, LOSSES)
        self.options = options or Options()
        self._gain, self._old, self._is_sequence = LOSSES[name], old, name == "sequence"

    def units(self, samples: Iterable[Sample]) -> int:
        """What the sum over these samples is to be divided by: tokens, or replies where they count as one."""
        return sum(1 if self._is_sequence else len(sample.targets) for sample in samples)

    def __call__(self, out: PassOut) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over a pass, and figures. Raises InvalidInput for a sample that lacks something."""
        terms, options = self._terms(out), self.options
        replies = terms.replies
        off_T = (terms.logprobs_T.detach() if self._old is None else terms.old_T) - terms.sampled_T
        kept_R = kept(replies.means(off_T), low=options.mask_low, high=options.mask_high)
        gain_T, ratio_T, clipped_T = self._gain(terms, options)
        loss_T = -gain_T
        if options.kl_weight:
            loss_T = loss_T + options.kl_weight * self._far(terms)
        loss = (loss_T * replies.spread(kept_R * terms.weights_R)).sum()
        return loss, _figures(terms, out.entropy, ratio_T.detach(), clipped_T, kept_R)

    def _far(self, terms: Terms) -> Tensor:
        """[T]: distance from the base; of a reply that is one unit, each token's share."""
        if terms.base_T is None:
            raise InvalidInput(f"kl_weight is {self.options.kl_weight:g}, and there are no log-probabilities of the base")
        far_T = k3(terms.logprobs_T, terms.base_T)
        return far_T / terms.replies.spread(terms.replies.lengths_R) if self._is_sequence else far_T

    def _terms(self, out: PassOut) -> Terms:
        sampled_T = out.flat(map(_sampled, out.samples))
        old = self._old
        lengths = [len(sample.targets) for sample in out.samples]
        return Terms(
            logprobs_T=out.logprobs,
            old_T=sampled_T if old is None else out.flat(old[sample.key] for sample in out.samples),
            sampled_T=sampled_T,
            advantages_T=out.flat(map(_advantages, out.samples)),
            base_T=out.base_logprobs,
            replies=Replies(reply_T=out.sample, lengths_R=sampled_T.new_tensor(lengths)),
            weights_R=sampled_T.new_tensor([sample.weight for sample in out.samples]),
        )


def _figures(terms: Terms, entropy_T: Tensor, ratio_T: Tensor, clipped_T: Tensor, kept_R: Tensor) -> dict[str, Tensor]:
    now_T = terms.logprobs_T.detach()
    told = {
        "tokens": now_T.new_tensor(len(now_T)),
        "replies": now_T.new_tensor(len(kept_R)),
        "masked": (1 - kept_R).sum(),
        "clipped": clipped_T.sum(),
        "ratio": ratio_T.sum(),
        "ratio_max": ratio_T.max(),
        "kl_sampler_k1": k1(terms.sampled_T, now_T).sum(),
        "kl_sampler_k3": k3(terms.sampled_T, now_T).sum(),
        "entropy": entropy_T.sum(),
    }
    if terms.base_T is not None:
        told["kl_base"] = k3(now_T, terms.base_T).sum()
    return told


def _sampled(sample: Sample) -> NDArray[np.float32]:
    if sample.logprobs is None:
        raise InvalidInput(f"{sample.key} has no log-probabilities of the policy that sampled it")
    return sample.logprobs


def _advantages(sample: Sample) -> NDArray[np.float32]:
    if sample.advantages is None:
        raise InvalidInput(f"{sample.key} has no advantages")
    return sample.advantages


def means(figures: Mapping[str, float]) -> dict[str, float]:
    """An update's figures as they are reported: shares, means over tokens, the largest ratio; none where nothing was done."""
    if not figures.get("tokens"):
        return {}
    counts = {"tokens", "replies", "masked", "ratio_max"}
    names = {"clipped": "clip_share", "ratio": "ratio_mean"}
    told = {names.get(name, name): value / figures["tokens"] for name, value in figures.items() if name not in counts}
    return told | {"ratio_max": figures["ratio_max"], "masked_share": figures["masked"] / figures["replies"]}
