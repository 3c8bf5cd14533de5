"""Whether what plays and what is trained are one model, and whether it looks at what it is shown. Nothing is learnt here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from workers.model.images import ImageReader
from workers.model.types import Picture
from workers.trainer.learner import Learner
from workers.trainer.samples import Sample
from workers.transport.pixels import encode_png

LOOKED_AT: Final = 64
"""Samples that the model of a whole update is judged by."""
SHOWN: Final = 16
"""Samples whose pictures are blanked."""
BLIND: Final = 1e-6
"""Mean difference of log-probabilities (nats) below which a blank picture changes nothing but rounding."""
DIM: Final = 1e-3
"""And below which it changes too little to be looked at."""

Floats = NDArray[np.float32]


def spread(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many samples, from all over."""
    places = np.linspace(0, len(samples) - 1, min(most, len(samples)))
    return [samples[round(place)] for place in places.tolist()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How far one policy is from the one that sampled, by the tokens that it sampled."""

    k1: float
    """Mean log ratio: KL(sampler || other), in nats by token."""
    k3: float
    """The same with less spread, and never negative."""
    mean: float
    """Mean absolute difference of log-probabilities."""
    largest: float
    tokens: int


def distance(samples: Sequence[Sample], other: Sequence[Floats]) -> Distance | None:
    """From the samples' own log-probabilities to others of the same tokens; None without a token."""
    sampled = [sample.logprobs for sample in samples if sample.logprobs is not None]
    if not sampled:
        return None
    log_ratio = np.concatenate(other).astype(np.float64) - np.concatenate(sampled)
    return Distance(
        k1=float(-log_ratio.mean()),
        k3=float((np.expm1(log_ratio) - log_ratio).mean()),
        mean=float(np.abs(log_ratio).mean()),
        largest=float(np.abs(log_ratio).max()),
        tokens=len(log_ratio),
    )


def blindness(learner: Learner, samples: Sequence[Sample]) -> float | None:
    """Mean absolute difference of log-probabilities that black pictures make; None when no sample has a picture."""
    shown = spread([sample for sample in samples if sample.pictures], SHOWN)
    if not shown:
        return None
    dark = [replace(sample, pictures=tuple(_black(each, learner.loaded.images) for each in sample.pictures)) for sample in shown]
    seen, unseen = learner.logprobs(shown), learner.logprobs(dark)
    return float(np.abs(np.concatenate(seen) - np.concatenate(unseen)).mean())


def _black(picture: Picture, images: ImageReader) -> Picture:
    """A black picture of the same grid."""
    _, high, wide = picture.grid
    made = images.read(encode_png(np.zeros((high * images.patch, wide * images.patch, 3), np.uint8)))
    assert made.grid == picture.grid, f"a picture of {picture.grid} patches is read as one of {made.grid}"
    return made
