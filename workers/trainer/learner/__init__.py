"""A model that learns from samples: what it is made with, what it gives to a loss, and the learner itself."""

from __future__ import annotations

from workers.trainer.learner.learner import Learner
from workers.trainer.learner.outs import Loss, PassOut, Tally
from workers.trainer.learner.settings import Lora, Settings

__all__ = ["Learner", "Lora", "Loss", "PassOut", "Settings", "Tally"]
