"""What the player is allowed to look at, as small records. The only place that reads the environment: one function a view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from workers.rollout.envs.base import Environment
from workers.rollout.envs.crafter.things import Plant, Thing
from workers.rollout.envs.crafter.world import World

DARK, BRIGHT = 0.45, 0.9
"""Daylight below which the picture is plainly dark (grass at 105 of 255 and noise along the rim), and from which on it is
plainly bright (at 144; a game begins at 136). In between it is neither."""
UNSEEN = (0, 0)
"""Where a sleeper faces: its picture does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What a single frame shows to a good eye, and nothing that it does not."""

    view: Sequence[Sequence[str]]
    """7 rows of 9 names, top row first; the player is in the middle. A name is that of the thing on the tile (``cow``,
    ``zombie``, ``skeleton``, ``arrow``, ``plant``, ``plant-ripe``, ``player``), or else of the ground. Where several actions are
    planned from one frame, tiles that lay beyond it are ``unknown``."""
    facing: tuple[int, int]
    """(dx, dy) to the faced tile; y grows downwards. ``UNSEEN`` of a sleeper."""
    health: int
    food: int
    drink: int
    energy: int
    sleeping: bool
    dark: bool
    bright: bool
    items: Mapping[str, int]
    """Amounts of what the player has, by name: only what is there, without the four above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight(Glance):
    """What ``status`` tells: a glance, where a sleeper faces too, and what was unlocked before."""

    unlocked: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey(Sight):
    """A sight, and everything beyond it."""

    at: tuple[int, int]
    """The player's tile: (x, y)."""
    terrain: bytes
    """Crafter's material numbers of the whole map, 64 x 64, x before y."""
    things: tuple[tuple[int, int, str], ...]
    """All that stands on the map but the player: x, y, and a name as in ``view``."""


def glance(env: Environment) -> Glance:
    """The reactive player's look: the frame alone. No achievements, no step count, no more of the daylight than it shows."""
    status = env.status()
    shown = _shown(status)
    return Glance(**(shown | {"facing": UNSEEN} if status["sleeping"] else shown))


def look(env: Environment) -> Sight:
    """The visible player's look: the view, the inventory and the achievements so far."""
    status = env.status()
    return Sight(**_shown(status), unlocked=frozenset(status["achievements"]))


def survey(env: Environment) -> Survey:
    """The omniscient player's look: the whole map and all that lives on it. The environment must be Crafter itself."""
    world: World = env.world  # type: ignore[attr-defined]
    sight = look(env)
    return Survey(
        **{field.name: getattr(sight, field.name) for field in fields(sight)},
        at=(world.player.x, world.player.y),
        terrain=world.terrain(),
        things=tuple((thing.x, thing.y, _name(thing)) for thing in world.objects if thing is not world.player),
    )


def _name(thing: Thing) -> str:
    return "plant-ripe" if isinstance(thing, Plant) and thing.ripe else thing.name


def _shown(status: dict[str, Any]) -> dict[str, Any]:
    return {
        "view": status["view"],
        "facing": tuple(status["facing"]),
        "health": status["health"],
        "food": status["food"],
        "drink": status["drink"],
        "energy": status["energy"],
        "sleeping": status["sleeping"],
        "dark": status["daylight"] < DARK,
        "bright": status["daylight"] >= BRIGHT,
        "items": status["inventory"],
    }
