"""A new world from a seed: the terrain and the first animals, as stock Crafter makes them.

The noise draws no random numbers, so it is worked out for the whole map at once; the draws of single tiles follow in stock
order, x before y.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workers.rollout.envs.crafter.draws import below
from workers.rollout.envs.crafter.simplex import Noise
from workers.rollout.envs.crafter.tables import (
    COAL,
    DIAMOND,
    GRASS,
    IRON,
    LAVA,
    PATH,
    SAND,
    STONE,
    TREE,
    WALKABLE,
    WATER,
)
from workers.rollout.envs.crafter.things import Cow, Skeleton, Zombie
from workers.rollout.envs.crafter.world import SIDE, World

# C the 4096 tiles, x before y.
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_RARE = {TREE: 0.8, COAL: 0.85, IRON: 0.75, DIAMOND: 0.994}
"""What a tile's draw must exceed for it to hold this material, in the order of the draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terrain:
    """What the noise alone says of each tile."""

    material: npt.NDArray[np.uint8]
    """What the tile is unless a draw makes it something rarer: [C]."""
    tunnel: Mask
    """[C]"""
    choices: dict[int, Mask]
    """Where a draw may put a rarer material: [C] for each, in the order of the draws."""


def generate(world: World) -> None:
    """Fill an empty world whose player stands at the centre and whose generator is fresh."""
    noise = Noise(below(world.rng, 2**31 - 1))
    x, y = (axis.ravel().astype(np.float64) for axis in np.mgrid[:SIDE, :SIDE])
    away = np.sqrt((x - world.player.x) ** 2 + (y - world.player.y) ** 2)
    terrain = _terrain(noise, x, y, away)
    world.set_terrain(_decide(terrain, world.rng))
    _populate(world, away, terrain.tunnel)


def _terrain(noise: Noise, x: Floats, y: Floats, away: Floats) -> _Terrain:
    def field(where: Mask, z: int, size: float, x: Floats = x, y: Floats = y) -> Floats:
        """Noise where it is asked for, else 0: float64 [C]."""
        value = np.zeros(len(x))
        px, py = x[where] / size, y[where] / size
        value[where] = noise(px, py, np.full(len(px), float(z)))
        return value

    everywhere = np.ones(len(x), bool)
    start = 1 / (1 + np.exp(-(4 - away + 2 * field(everywhere, 8, 3))))
    water = field(everywhere, 3, 15) + 0.15 * field(everywhere, 3, 5) + 0.1 - 2 * start
    mountain = (field(everywhere, 0, 15) + 0.3 * field(everywhere, 0, 5)) / (1 + 0.3) - (4 * start + 0.3 * water)

    clearing = start > 0.5
    rock = ~clearing & (mountain > 0.15)
    cave = rock & (mountain > 0.3)
    cave &= field(cave, 6, 7) > 0.15
    solid = rock & ~cave
    level = solid & (field(solid, 7, 3, 2 * x, y / 5) > 0.4)
    solid &= ~level
    upright = solid & (field(solid, 7, 3, x / 5, 2 * y) > 0.4)
    solid &= ~upright
    deep = solid & (mountain > 0.3)
    lava = deep & (field(deep, 6, 5) > 0.35)
    shore = ~clearing & ~rock & (water > 0.25) & (water <= 0.35)
    sand = shore & (field(shore, 4, 9) > -0.2)
    wet = ~clearing & ~rock & ~sand & (water > 0.3)
    plain = ~(clearing | rock | sand | wet)
    choices = {
        TREE: plain & (field(plain, 5, 7) > 0),
        COAL: solid & (field(solid, 1, 8) > 0),
        IRON: solid & (field(solid, 2, 6) > 0.4),
        DIAMOND: solid & (mountain > 0.18),
    }
    material = np.full(len(x), GRASS, np.uint8)
    for where, number in ((solid, STONE), (lava, LAVA), (rock & ~solid, PATH), (sand, SAND), (wet, WATER)):
        material[where] = number
    return _Terrain(material=material, tunnel=level | upright, choices=choices)


def _decide(terrain: _Terrain, rng: random.Random) -> bytes:
    """Draw what the noise left open: the map's materials, tile by tile."""
    material = bytearray(terrain.material.tobytes())
    options = [(number, _RARE[number], where.tolist()) for number, where in terrain.choices.items()]
    for tile in np.flatnonzero(np.logical_or.reduce(list(terrain.choices.values()))).tolist():
        for number, threshold, where in options:
            if where[tile] and rng.random() > threshold:
                material[tile] = number
                break
    return bytes(material)


def _populate(world: World, away: Floats, tunnel: Mask) -> None:
    draw = world.rng.random
    far, very_far, tunnels = (away > 3).tolist(), (away > 10).tolist(), tunnel.tolist()
    for tile, material in enumerate(world.terrain()):
        if not WALKABLE[material]:
            continue
        x, y = divmod(tile, SIDE)
        if far[tile] and material == GRASS and draw() > 0.985:
            world.add(Cow(x, y))
        elif very_far[tile] and draw() > 0.993:
            world.add(Zombie(x, y))
        elif material == PATH and tunnels[tile] and draw() > 0.95:
            world.add(Skeleton(x, y))
