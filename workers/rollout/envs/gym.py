"""Any environment of synthq as a Gymnasium environment. Needs the extra ``gym``; nothing else imports this module."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.errors import NotHere
from workers.rollout.envs import make
from workers.rollout.envs.base import Pixels

try:
    import gymnasium
    from gymnasium import spaces
except ImportError as error:
    raise NotHere("the Gymnasium face needs gymnasium; `pip install -e '.[gym]'` in synthq's folder brings it") from error

SEEDS = 2**31 - 1
"""Seeds below this are drawn for episodes that begin without one."""


class GymEnvironment(gymnasium.Env[Pixels, np.int64]):
    """An environment by name: observations are its frames, actions the numbers of its action names, rewards its own.

    ``reset(seed=n)`` begins the episode of seed n; a reset without one goes on to a seed drawn from ``np_random``. ``info`` holds
    ``inventory``, ``unlocked`` (the step of each achievement) and, after a step, ``changed``. A step after the end raises
    EpisodeOver.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  gymnasium declares it so

    def __init__(self, name: str = "crafter", render_mode: str | None = None, **config: Any) -> None:
        self.environment = make(name, config)
        self.render_mode = render_mode
        self.environment.reset(0)
        self.action_space = spaces.Discrete(len(self.environment.actions))
        self.observation_space = spaces.Box(0, 255, self.environment.frame().shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Pixels, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.environment.reset(int(self.np_random.integers(SEEDS)) if seed is None else seed)
        return self.environment.frame().copy(), self._info()

    def step(self, action: np.int64) -> tuple[Pixels, float, bool, bool, dict[str, Any]]:
        """Carry out the action of this number."""
        result = self.environment.step(self.environment.actions[int(action)])
        info = self._info() | {"changed": result.changed}
        return self.environment.frame().copy(), result.reward, result.terminated, result.truncated, info

    def render(self) -> Any:
        """The present frame in the mode ``rgb_array``, else None."""
        return self.environment.frame().copy() if self.render_mode == "rgb_array" else None

    def _info(self) -> dict[str, Any]:
        return {"inventory": self.environment.inventory(), "unlocked": self.environment.unlocked()}
