"""A second, very small environment, as another package would write it: a corridor with a door at its end and a pit in it."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import numpy as np

from app.errors import BadSnapshot, EpisodeOver, UnknownAction
from workers.rollout.envs.base import Pixels, StepResult


class Corridor:
    """Walk right to the door; jump over the pit. A step into the pit is the end."""

    name = "corridor"
    version = "1"
    actions = ("wait", "left", "right", "jump")
    achievements = ("pass_pit", "reach_door")

    def __init__(self, *, cells: int = 8, length: int = 50) -> None:
        self.cells = cells
        self.most_steps = length
        self._state: dict[str, Any] = {}

    def reset(self, seed: int) -> None:
        self._state = {"at": 0, "pit": random.Random(seed).randrange(2, self.cells - 2), "step": 0, "unlocked": {}}

    def step(self, action: str) -> StepResult:
        if action not in self.actions:
            raise UnknownAction(action, self.actions)
        if self.ended:
            raise EpisodeOver(self.ended)
        state = self._state
        before = state["at"]
        move = {"wait": 0, "left": -1, "right": 1, "jump": 2}[action]
        state["at"] = min(max(before + move, 0), self.cells - 1)
        state["step"] += 1
        reached = {"pass_pit": state["at"] > state["pit"], "reach_door": state["at"] == self.cells - 1}
        new = tuple(name for name, now in reached.items() if now and name not in state["unlocked"])
        state["unlocked"].update(dict.fromkeys(new, state["step"]))
        return StepResult(
            reward=float(len(new)),
            unlocked=new,
            terminated=self.ended in ("fell", "out"),
            truncated=self.ended == "length",
            changed=state["at"] != before,
        )

    def frame(self) -> Pixels:
        tiles = np.full((self.cells, self.cells, 3), 200, np.uint8)
        tiles[:, self._state["pit"]] = 0
        tiles[:, self._state["at"]] = (250, 80, 40)
        return tiles.repeat(8, axis=0).repeat(8, axis=1)

    def status(self) -> dict[str, Any]:
        return {"at": self._state["at"], "pit": self._state["pit"], "door": self.cells - 1}

    def unlocked(self) -> dict[str, int]:
        return dict(self._state["unlocked"])

    def inventory(self) -> dict[str, int]:
        return {}

    @property
    def length(self) -> int:
        return int(self._state["step"])

    @property
    def ended(self) -> str | None:
        if self._state["at"] == self._state["pit"]:
            return "fell"
        if self._state["at"] == self.cells - 1:
            return "out"
        return "length" if self._state["step"] >= self.most_steps else None

    def rules(self, level: str) -> str:
        return "Walk right to the door, and jump over the pit."

    def describe(self, status: dict[str, Any]) -> str:
        return f"You stand on cell {status['at']}; the pit is at {status['pit']}, the door at {status['door']}."

    def state_sha256(self) -> str:
        return hashlib.sha256(self.snapshot()).hexdigest()

    def snapshot(self) -> bytes:
        return json.dumps(self._state).encode()

    def restore(self, snapshot: bytes) -> None:
        try:
            self._state = json.loads(snapshot)
        except ValueError as error:
            raise BadSnapshot(f"no snapshot of a corridor: {error}") from error
