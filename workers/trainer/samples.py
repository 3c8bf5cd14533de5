"""What a learner learns from: one sequence of tokens, which of them it answers for, and what is known of them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from workers.model.types import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A sequence and its targets: the tokens that a policy emits, each predicted from all before it."""

    key: str
    """Where it is from, for messages: ``train.jsonl:12``, or an episode and its turn."""
    ids: tuple[int, ...]
    """The whole sequence; each picture stands as as many image tokens as it has."""
    targets: tuple[int, ...]
    """Places in ``ids`` of the tokens that are learned, rising; never 0, for nothing predicts the first."""
    pictures: tuple[Picture, ...] = ()
    """In the order in which they stand in ``ids``. An image token among the targets is text that a model said."""
    weight: float = 1.0
    """How much it counts beside others."""
    temperature: float = 1.0
    """What the logits are divided by, as they were when it was sampled."""
    logprobs: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """[targets]: natural-log probabilities under the policy that sampled them; None for data that nobody sampled."""
    advantages: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """[targets]: how much better than expected each did; None where targets are only imitated."""
