"""AdamW with a learning rate that rises, stays or falls, over gradients that are not too long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from app.errors import StepFailed
from workers.trainer.learner.settings import Settings
from workers.trainer.learner.shards import dealt

MOMENTS: Final = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of each weight."""


def rate(settings: Settings, step: int) -> float:
    """The learning rate of the optimizer step ``step``, the first being 0."""
    height, warm = settings.learning_rate, settings.warmup_steps
    if step < warm:
        return height * (step + 1) / warm
    if settings.schedule == "constant" or not settings.total_steps:
        return height
    gone = min(1.0, (step - warm) / max(1, settings.total_steps - warm))
    return height * (1 - gone if settings.schedule == "linear" else (1 + math.cos(math.pi * gone)) / 2)


class Optimizer:
    """Takes steps over the weights that train."""

    def __init__(self, weights: Mapping[str, nn.Parameter], settings: Settings) -> None:
        self.weights = weights
        self._settings = settings
        # norms and biases, which are vectors, are not drawn towards 0
        decayed = [weight for weight in weights.values() if weight.ndim > 1]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": [weight for weight in weights.values() if weight.ndim <= 1], "weight_decay": 0.0},
        ]
        self._adam = AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            fused=True,
        )

    def step(self, number: int) -> dict[str, float]:
        """Take the optimizer step ``number`` and forget the gradients.

        Raises StepFailed, having changed nothing, when they are no numbers.
        """
        norm = self._shortened()
        if not math.isfinite(norm):
            self.forget()
            raise StepFailed(
                f"the gradient of optimizer step {number + 1} is {norm}, so nothing can be learned from it; a smaller "
                "learning_rate may keep the model from getting there"
            )
        now = rate(self._settings, number)
        for group in self._adam.param_groups:
            group["lr"] = now
        self._adam.step()
        self.forget()
        return {"grad_norm": norm, "learning_rate": now}

    def forget(self) -> None:
        """Have no gradients."""
        self._adam.zero_grad(set_to_none=True)

    def _shortened(self) -> float:
        """The gradient's length, before it is shortened."""
        weights = [weight for weight in self.weights.values() if weight.grad is not None]
        if not weights:
            return 0.0
        norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        length, most = float(norm), self._settings.max_grad_norm
        if math.isfinite(length) and 0 < most < length:
            nn.utils.clip_grads_with_norm_(weights, most, norm)
        return length

    def moments(self) -> dict[str, Tensor]:
        """What the optimizer remembers, by the weight's name and what it is."""
        return {
            f"{name}:{moment}": self._adam.state[weight][moment]
            for name, weight in self.weights.items()
            if weight in self._adam.state
            for moment in MOMENTS
        }

    def recall(self, moments: Mapping[str, Tensor]) -> None:
        """Remember what another one told with ``moments``, and nothing else."""
        self.forget()
        self._adam.state.clear()
        for name, weight in self.weights.items():
            if f"{name}:{MOMENTS[0]}" in moments:
                self._adam.state[weight] = {
                    moment: dealt(told, weight if told.ndim else told.to(weight.device))
                    for moment in MOMENTS
                    for told in [moments[f"{name}:{moment}"]]
                }
