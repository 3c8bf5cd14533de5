"""Every ten steps each chunk gains or loses animals, toward numbers that hang on light and room."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from workers.rollout.envs.crafter.draws import below
from workers.rollout.envs.crafter.tables import GRASS, PATH
from workers.rollout.envs.crafter.things import Cow, Skeleton, Thing, Zombie
from workers.rollout.envs.crafter.world import World


class _Kind(NamedTuple):
    """How one kind of animal comes and goes."""

    make: Callable[[int, int], Thing]
    name: str
    material: int
    """On which material it appears."""
    room: int
    """Tiles of that material from which on a chunk should hold some."""
    appears_from: int
    """Least distance to the player at which one appears, and at which one goes."""
    goes_from: int
    appears: float
    """Probability that one appears where there are too few, and that one goes where there are too many."""
    goes: float


_ZOMBIE = _Kind(Zombie, "zombie", GRASS, 50, 6, 0, 0.3, 0.4)
_SKELETON = _Kind(Skeleton, "skeleton", PATH, 6, 7, 7, 0.1, 0.1)
_COW = _Kind(Cow, "cow", GRASS, 30, 5, 5, 0.01, 0.1)


def balance(world: World) -> None:
    """Let animals appear and go in every chunk that ever held an object."""
    light = world.daylight
    zombies = int(3.5 - 3 * light)
    wanted = ((_ZOMBIE, zombies, zombies), (_SKELETON, 1, 2), (_COW, 1, int(1.5 + light)))
    for chunk in list(world.chunks):
        for kind, least, most in wanted:
            _balance(world, chunk, kind, least, most)


def _balance(world: World, chunk: int, kind: _Kind, least: int, most: int) -> None:
    tiles = (world.grass if kind.material == GRASS else world.path)[chunk]
    name = kind.name
    living = [thing for thing in world.chunks[chunk] if thing.name == name]
    if len(living) < (least if tiles >= kind.room else 0) and world.rng.random() < kind.appears:
        room = world.tiles(chunk, kind.material)
        x, y = room[below(world.rng, len(room))]
        if world.thing(x, y) is None and abs(x - world.player.x) + abs(y - world.player.y) >= kind.appears_from:
            world.add(kind.make(x, y))
    elif len(living) > most and world.rng.random() < kind.goes:
        thing = living[below(world.rng, len(living))]
        if world.player.distance(thing) >= kind.goes_from:
            world.remove(thing)
