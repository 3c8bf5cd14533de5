"""The state of one Crafter world: the map, what stands on it, and the generator of its random numbers.

The map lies in one byte string, x before y, with a rim of nothing around it, so that a look beyond the edge needs no test.
Chunks (12x12 tiles) keep their objects in the order in which they came. Stock Crafter keeps them in a set, in whatever order
memory gives; a draw then picks one of them, and that alone makes it irreproducible.
"""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from workers.rollout.envs.crafter.draws import State, block
from workers.rollout.envs.crafter.tables import GRASS, MATERIALS, PATH, SEMANTIC

if TYPE_CHECKING:
    from workers.rollout.envs.crafter.player import Player
    from workers.rollout.envs.crafter.things import Thing

SIDE = 64
"""Tiles along each side of the map."""
RIM = 4
"""Tiles of nothing around it: as far as the view reaches."""
STRIDE = SIDE + 2 * RIM
CHUNK = 12
DARK = 0.5
"""Below this daylight the frame has noise."""
NOISE = 63 * 49
"""Draws that the noise of a frame takes: one for each pixel of the map's part of a 64 pixel frame."""
_CHUNKS = -(-SIDE // CHUNK)


def cell(x: int, y: int) -> int:
    """Where the tile is in ``World.materials`` and ``World.standing``."""
    return (x + RIM) * STRIDE + y + RIM


def _chunk_of_cells() -> list[int]:
    inside = [min(max(i - RIM, 0), SIDE - 1) // CHUNK for i in range(STRIDE)]
    return [x * _CHUNKS + y for x in inside for y in inside]


CHUNK_OF = _chunk_of_cells()
"""Number of the chunk by cell."""


def chunk_bounds(chunk: int) -> tuple[int, int, int, int]:
    """First and last-plus-one x, then y, of a chunk."""
    x, y = divmod(chunk, _CHUNKS)
    return x * CHUNK, min((x + 1) * CHUNK, SIDE), y * CHUNK, min((y + 1) * CHUNK, SIDE)


@cache
def daylight_at(step: int) -> float:
    """How light it is after so many steps, 0 to 1, with a cycle of 300. Numpy's cosine, since the last bit counts."""
    progress = (step / 300) % 1 + 0.3
    return float(1 - np.abs(np.cos(np.pi * progress)) ** 3)


class World:
    """One world. Whoever reads it may know more than the picture shows; play goes through ``Crafter``."""

    __slots__ = (
        "chunks",
        "grass",
        "materials",
        "noise",
        "objects",
        "path",
        "player",
        "rng",
        "seed",
        "settled",
        "standing",
        "step",
        "unlocked",
    )

    def __init__(self, seed: int, rng: random.Random, player: Player) -> None:
        self.seed = seed
        self.rng = rng
        self.step = 0
        """Game steps so far."""
        self.unlocked: dict[str, int] = {}
        """Achievements reached so far, each with the step that reached it first."""
        self.noise: int | None = None
        """At night: the block of draws that stock Crafter's present frame takes, and the generator's state before it."""
        self.settled: State | None = None
        self.materials = bytearray(STRIDE * STRIDE)
        """Number of each cell's material; 0 outside."""
        self.standing: list[Thing | None] = [None] * (STRIDE * STRIDE)
        """What stands on each cell."""
        self.objects: dict[Thing, None] = {}
        """Everything alive, in the order in which it came; the player is the first."""
        self.chunks: dict[int, dict[Thing, None]] = {}
        """Objects of each chunk that ever held one, both in the order in which they came."""
        self.grass = [0] * (_CHUNKS * _CHUNKS)
        """Tiles of grass in each chunk; ``path`` likewise."""
        self.path = [0] * (_CHUNKS * _CHUNKS)
        self.player = player
        self.add(player)

    @property
    def daylight(self) -> float:
        """How light it is, 0 to 1."""
        return daylight_at(self.step)

    def dusk(self) -> None:
        """Draw the noise of the present frame as stock Crafter does at 64 pixels, whoever looks at it or not."""
        dark = self.daylight < DARK
        self.settled = self.rng.getstate() if dark else None
        self.noise = block(self.rng, NOISE) if dark else None

    def material(self, x: int, y: int) -> str:
        """Name of the material of a tile; ``outside`` up to 4 tiles beyond the map."""
        return MATERIALS[self.materials[cell(x, y)]]

    def thing(self, x: int, y: int) -> Thing | None:
        """What stands on a tile of the map or up to 4 tiles beyond it."""
        return self.standing[cell(x, y)]

    def terrain(self) -> bytes:
        """Material numbers of the whole map, x before y: 4096 bytes."""
        return self._map().tobytes()

    def semantic(self) -> npt.NDArray[np.uint8]:
        """Stock Crafter's semantic view: uint8 [64, 64] as [x, y], material numbers with those of objects over them."""
        view = self._map().copy()
        for thing in self.objects:
            view[thing.x, thing.y] = SEMANTIC[thing.name]
        return view

    def _map(self) -> npt.NDArray[np.uint8]:
        grid = np.frombuffer(self.materials, np.uint8).reshape(STRIDE, STRIDE)
        return grid[RIM : RIM + SIDE, RIM : RIM + SIDE]

    def set_terrain(self, terrain: bytes) -> None:
        """Lay the whole map anew, from what ``terrain`` gives."""
        grid = np.frombuffer(terrain, np.uint8).reshape(SIDE, SIDE)
        padded = np.zeros((STRIDE, STRIDE), np.uint8)
        padded[RIM : RIM + SIDE, RIM : RIM + SIDE] = grid
        self.materials = bytearray(padded.tobytes())
        for counts, number in ((self.grass, GRASS), (self.path, PATH)):
            rows = np.add.reduceat(grid == number, range(0, SIDE, CHUNK), axis=0, dtype=int)
            counts[:] = np.add.reduceat(rows, range(0, SIDE, CHUNK), axis=1).ravel().tolist()

    def set_material(self, at: int, number: int) -> None:
        """Change the material of one cell of the map."""
        chunk, old = CHUNK_OF[at], self.materials[at]
        self.materials[at] = number
        self.grass[chunk] += (number == GRASS) - (old == GRASS)
        self.path[chunk] += (number == PATH) - (old == PATH)

    def add(self, thing: Thing) -> None:
        """Put something on a free tile."""
        self.standing[thing.at] = thing
        self.objects[thing] = None
        self.chunks.setdefault(CHUNK_OF[thing.at], {})[thing] = None

    def remove(self, thing: Thing) -> None:
        """Take something off the map, if it is still there."""
        if thing.removed:
            return
        thing.removed = True
        self.standing[thing.at] = None
        del self.objects[thing]
        del self.chunks[CHUNK_OF[thing.at]][thing]

    def try_move(self, thing: Thing, dx: int, dy: int, walkable: bytes) -> bool:
        """Move something one tile if that is free and walkable; true if it was so. What is removed only looks."""
        at = thing.at
        to = at + dx * STRIDE + dy
        standing = self.standing
        if standing[to] is not None or not walkable[self.materials[to]]:
            return False
        if thing.removed:
            return True
        standing[to], standing[at] = thing, None
        thing.x += dx
        thing.y += dy
        thing.at = to
        old, new = CHUNK_OF[at], CHUNK_OF[to]
        if old != new:
            del self.chunks[old][thing]
            self.chunks.setdefault(new, {})[thing] = None
        return True

    def nearby(self, x: int, y: int) -> set[int]:
        """Numbers of the materials in the 3x3 tiles around one. Empty at x = 0 and y = 0, as in stock Crafter."""
        if x == 0 or y == 0:
            return set()
        corner = cell(x - 1, y - 1)
        return {m for start in range(corner, corner + 3 * STRIDE, STRIDE) for m in self.materials[start : start + 3]}

    def tiles(self, chunk: int, number: int) -> list[tuple[int, int]]:
        """The tiles of a chunk that have this material, x before y."""
        x0, x1, y0, y1 = chunk_bounds(chunk)
        materials = self.materials
        return [(x, y) for x in range(x0, x1) for y in range(y0, y1) if materials[cell(x, y)] == number]
