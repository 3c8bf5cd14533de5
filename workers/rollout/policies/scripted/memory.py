"""What the player has seen so far: a map by dead reckoning, and where creatures are.

Cells are whole numbers, ``y * WIDTH + x``, on a grid so large that any world of 64 x 64 fits round the place where
memory began.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

from workers.rollout.envs.crafter.tables import MATERIALS
from workers.rollout.envs.crafter.world import SIDE
from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.sight import Glance, Survey

WIDTH = 128
START = 64 * WIDTH + 64
"""The cell where memory begins."""

GROUND_OF = {"zombie": kinds.GRASS, "cow": kinds.GRASS, "skeleton": kinds.PATH, "arrow": kinds.PATH, "player": kinds.GRASS}
"""What most likely lies under a creature on a cell that was never seen without one."""
MOVES = {"move_left": (-1, 0), "move_right": (1, 0), "move_up": (0, -1), "move_down": (0, 1)}
MISFITS = 2
"""Tiles in view that may differ from the map, beside one for each action: what the player changed, and what an arrow did."""
COW_MEMORY_STEPS = 60
"""A cow out of sight is believed to be near its old place for this many steps."""

GROWS_WITHIN = 18
"""A plant grows while the player is nearer than this."""
RIPE_AFTER = 301
"""Steps of growth after which a plant is ripe; one that is seen to be unripe all the same, or was eaten, has these then:"""
LOOK_AGAIN = 200


class Memory:
    """The map, the player's cell on it, and the creatures."""

    def __init__(self) -> None:
        self.map = bytearray(WIDTH * WIDTH)
        self.at = START
        """The player's cell: where it was seen to be, or after actions without a look where it should be."""
        self.steps = 0
        """Actions since memory began."""
        self.creatures: dict[int, str] = {}
        """Cells of the creatures in sight."""
        self.cows: dict[int, int] = {}
        """Cells where cows were last seen, and at which step."""
        self.plants: dict[int, int] = {}
        """Cells of the plants that were seen, and by how many steps each has grown since."""
        self._looked_at: int | None = None
        """The player's cell at the last look."""
        self._blind = 0
        """Actions since then."""

    def copy(self) -> Memory:
        """Another one that remembers the same."""
        other = Memory()
        other.map[:] = self.map
        other.at, other.steps, other._looked_at, other._blind = self.at, self.steps, self._looked_at, self._blind
        other.creatures, other.cows, other.plants = dict(self.creatures), dict(self.cows), dict(self.plants)
        return other

    def acted(self) -> None:
        """Count an action. Plants grow while the player is near, and are believed to be ripe when it is time."""
        self.steps += 1
        self._blind += 1
        for cell in self.plants:
            if distance(cell, self.at) < GROWS_WITHIN:
                self.plants[cell] += 1
                if self.plants[cell] > RIPE_AFTER and self.map[cell] == kinds.PLANT:
                    self.map[cell] = kinds.RIPE

    def look(self, sight: Glance) -> None:
        """Take in what is seen. Where the player is follows from its actions, or else from what fits the map."""
        names = [name for row in sight.view for name in row]
        offsets = _offsets(len(sight.view), len(sight.view[0]))
        self.at = self._looked_at = self._place(names, offsets, sight)
        self._blind = 0
        self.creatures = {}
        ground = self.map
        at = self.at
        for offset, name in zip(offsets, names, strict=True):
            kind = kinds.KIND_OF.get(name)
            if kind is not None:
                ground[at + offset] = kind
            elif offset:
                self._creature(at + offset, name)
        if ground[at] not in kinds.FREE:
            ground[at] = GROUND_OF["player"]
        if self.plants or "plant" in names:
            self._remember_plants(offsets)
        if "outside" in names:
            self._close_edges(sight.view)
        self._remember_cows(offsets)

    def survey(self, survey: Survey) -> None:
        """Take over everything there is: nothing of what was known before counts."""
        x, y = survey.at
        self.at = _cell(x, y)
        self.map = bytearray([kinds.OUTSIDE]) * (WIDTH * WIDTH)
        ground = survey.terrain.translate(_KIND_OF_MATERIAL)
        for row in range(SIDE):
            first = _cell(0, row)
            self.map[first : first + SIDE] = ground[row::SIDE]
        self.creatures = {}
        for x, y, name in survey.things:
            if name in kinds.KIND_OF:
                self.map[_cell(x, y)] = kinds.KIND_OF[name]
            else:
                self.creatures[_cell(x, y)] = name
        self.cows = {cell: self.steps for cell, name in self.creatures.items() if name == "cow"}

    def _creature(self, cell: int, name: str) -> None:
        self.creatures[cell] = name
        if self.map[cell] not in kinds.FREE:
            self.map[cell] = GROUND_OF.get(name, kinds.PATH)

    def _remember_plants(self, offsets: tuple[int, ...]) -> None:
        ground = self.map
        self.plants = {cell: grown for cell, grown in self.plants.items() if ground[cell] in (kinds.PLANT, kinds.RIPE)}
        for offset in offsets:
            cell = self.at + offset
            if ground[cell] == kinds.PLANT and self.plants.setdefault(cell, 0) > RIPE_AFTER:
                self.plants[cell] = LOOK_AGAIN

    def _remember_cows(self, offsets: tuple[int, ...]) -> None:
        if self.cows:
            seen = {self.at + offset for offset in offsets}
            oldest = self.steps - COW_MEMORY_STEPS
            self.cows = {cell: when for cell, when in self.cows.items() if when > oldest and cell not in seen}
        for cell, name in self.creatures.items():
            if name == "cow":
                self.cows[cell] = self.steps

    def _place(self, names: list[str], offsets: tuple[int, ...], sight: Glance) -> int:
        """The cell that the player stands on now."""
        if self._looked_at is None:
            return self.at
        best, least = self.at, self._misfits(self.at, names, offsets)
        if least == 0:
            return best
        for cell in self._possible(sight.facing):
            count = self._misfits(cell, names, offsets)
            if count < least:
                best, least = cell, count
        if least <= MISFITS + self._blind:
            return best
        self._forget()
        return self.at

    def _possible(self, facing: tuple[int, int]) -> list[int]:
        """Cells where the player may be after its actions since the last look."""
        was, most = self._looked_at or self.at, max(self._blind, 1)
        if most == 1:
            return [was, was + facing[1] * WIDTH + facing[0]]
        return [was + dy * WIDTH + dx for dy in range(-most, most + 1) for dx in range(abs(dy) - most, most - abs(dy) + 1)]

    def _forget(self) -> None:
        """Begin the map anew: this is no place that it shows."""
        self.map = bytearray(WIDTH * WIDTH)
        self.at, self.cows, self.plants = START, {}, {}

    def _misfits(self, cell: int, names: list[str], offsets: tuple[int, ...]) -> int:
        ground, count = self.map, 0
        for offset, name in zip(offsets, names, strict=True):
            was = ground[cell + offset]
            if was and kinds.KIND_OF.get(name, was) != was and was != kinds.PLANT:
                count += 1
        return count

    def _close_edges(self, view: Sequence[Sequence[str]]) -> None:
        """Rows and columns of the view that are wholly outside: nothing beyond them is worth exploring."""
        x, y = self.at % WIDTH, self.at // WIDTH
        last = WIDTH - 1
        for column, far in ((0, 0), (len(view[0]) - 1, last)):
            if all(row[column] == "outside" for row in view) and self.map[y * WIDTH + far] != kinds.OUTSIDE:
                edge = x + column - len(view[0]) // 2
                begin, end = min(edge, far), max(edge, far) + 1
                for line in range(0, WIDTH * WIDTH, WIDTH):
                    self.map[line + begin : line + end] = bytes([kinds.OUTSIDE]) * (end - begin)
        for row, far in ((0, 0), (len(view) - 1, last)):
            if all(name == "outside" for name in view[row]) and self.map[far * WIDTH + x] != kinds.OUTSIDE:
                edge = y + row - len(view) // 2
                begin, end = min(edge, far) * WIDTH, (max(edge, far) + 1) * WIDTH
                self.map[begin:end] = bytes([kinds.OUTSIDE]) * (end - begin)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "map": base64.b64encode(zlib.compress(bytes(self.map))).decode("ascii"),
            "at": self.at,
            "steps": self.steps,
            "creatures": [[cell, name] for cell, name in self.creatures.items()],
            "cows": [[cell, step] for cell, step in self.cows.items()],
            "plants": [[cell, grown] for cell, grown in self.plants.items()],
            "looked_at": self._looked_at,
            "blind": self._blind,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Memory:
        """The inverse of ``to_json``."""
        memory = cls()
        memory.map = bytearray(zlib.decompress(base64.b64decode(value["map"])))
        memory.at, memory.steps = value["at"], value["steps"]
        memory._looked_at, memory._blind = value["looked_at"], value["blind"]
        memory.creatures = dict(value["creatures"])
        memory.cows = dict(value["cows"])
        memory.plants = dict(value["plants"])
        return memory


def distance(cell: int, other: int) -> int:
    """Steps from one cell to another, if nothing stood between."""
    return abs(cell % WIDTH - other % WIDTH) + abs(cell // WIDTH - other // WIDTH)


def _cell(x: int, y: int) -> int:
    """The cell of a tile of the world, whose centre is where memory begins."""
    return START + (y - SIDE // 2) * WIDTH + x - SIDE // 2


_KIND_OF_MATERIAL = bytes(kinds.KIND_OF.get(name, kinds.UNKNOWN) for name in MATERIALS).ljust(256, b"\0")


def _offsets(height: int, width: int) -> tuple[int, ...]:
    """Steps on the map from the player to each tile of a view, row by row."""
    key = (height, width)
    if key not in _OFFSETS:
        rows, columns = range(-(height // 2), height // 2 + 1), range(-(width // 2), width // 2 + 1)
        _OFFSETS[key] = tuple(dy * WIDTH + dx for dy in rows for dx in columns)
    return _OFFSETS[key]


_OFFSETS: dict[tuple[int, int], tuple[int, ...]] = {}
