"""What the player is allowed to look at, as one small record. The only place that reads the environment's status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.rollout.envs.base import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One look at the world: the nearby tiles by name, and how the player fares."""

    view: Sequence[Sequence[str]]
    """Rows of names, top row first; the player is in the middle."""
    facing: tuple[int, int]
    """(dx, dy) to the faced tile; y grows downwards."""
    health: int
    food: int
    drink: int
    energy: int
    sleeping: bool
    daylight: float
    """0 dark to 1 bright."""
    items: Mapping[str, int]
    unlocked: frozenset[str]


def look(env: Environment) -> Sight:
    """What the picture shows, no more: the view, the inventory and the achievements so far."""
    status: dict[str, Any] = env.status()
    return Sight(
        view=status["view"],
        facing=tuple(status["facing"]),
        health=status["health"],
        food=status["food"],
        drink=status["drink"],
        energy=status["energy"],
        sleeping=status["sleeping"],
        daylight=status["daylight"],
        items=status["inventory"],
        unlocked=frozenset(status["achievements"]),
    )
