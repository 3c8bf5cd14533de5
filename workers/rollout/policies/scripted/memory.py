"""What the player has seen so far: a map by dead reckoning, and where creatures are.

Cells are whole numbers, ``y * WIDTH + x``, on a grid so large that any world of 64 x 64 fits round the place where
memory began.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.sight import Glance

WIDTH = 128
START = 64 * WIDTH + 64
"""The cell where memory begins."""

GROUND_OF = {"zombie": kinds.GRASS, "cow": kinds.GRASS, "skeleton": kinds.PATH, "arrow": kinds.PATH, "player": kinds.GRASS}
"""What most likely lies under a creature on a cell that was never seen without one."""
MOVES = {"move_left": (-1, 0), "move_right": (1, 0), "move_up": (0, -1), "move_down": (0, 1)}
MISFITS = 3
"""Tiles in view that may differ from the map: what the player changed, and what an arrow did."""
COW_MEMORY_LOOKS = 60
"""A cow out of sight is believed to be near its old place for this many looks."""


class Memory:
    """The map, the player's cell on it, and the creatures."""

    def __init__(self) -> None:
        self.map = bytearray(WIDTH * WIDTH)
        self.at = START
        self.looks = 0
        self.creatures: dict[int, str] = {}
        """Cells of the creatures in sight."""
        self.cows: dict[int, int] = {}
        """Cells where cows were last seen, and at which look."""
        self._expected: int | None = None

    def expect(self, action: str, sight: Glance) -> None:
        """Work out where this action will put the player. The player moves before all others, so it is certain."""
        self._expected = self.at
        asleep = sight.sleeping and sight.energy < 9
        if action in MOVES and not asleep:
            dx, dy = MOVES[action]
            ahead = self.at + dy * WIDTH + dx
            if self.map[ahead] in kinds.FREE and ahead not in self.creatures:
                self._expected = ahead

    def look(self, sight: Glance) -> None:
        """Take in what is seen. Where the player is follows from the action, or else from what fits the map."""
        names = [name for row in sight.view for name in row]
        offsets = _offsets(len(sight.view), len(sight.view[0]))
        self.at = self._place(names, offsets, sight)
        self.looks += 1
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
        if "outside" in names:
            self._close_edges(sight.view)
        self._remember_cows(offsets)

    def _creature(self, cell: int, name: str) -> None:
        self.creatures[cell] = name
        if self.map[cell] not in kinds.FREE:
            self.map[cell] = GROUND_OF.get(name, kinds.PATH)

    def _remember_cows(self, offsets: tuple[int, ...]) -> None:
        if self.cows:
            seen = {self.at + offset for offset in offsets}
            oldest = self.looks - COW_MEMORY_LOOKS
            self.cows = {cell: when for cell, when in self.cows.items() if when > oldest and cell not in seen}
        for cell, name in self.creatures.items():
            if name == "cow":
                self.cows[cell] = self.looks

    def _place(self, names: list[str], offsets: tuple[int, ...], sight: Glance) -> int:
        """The cell that the player stands on now."""
        if self.looks == 0:
            return self.at
        expected = self.at if self._expected is None else self._expected
        least = self._misfits(expected, names, offsets)
        if least == 0:
            return expected
        dx, dy = sight.facing
        best = expected
        for cell in (self.at, self.at + dy * WIDTH + dx):
            count = self._misfits(cell, names, offsets)
            if count < least:
                best, least = cell, count
        if least <= MISFITS:
            return best
        self._forget()
        return self.at

    def _forget(self) -> None:
        """Begin the map anew: this is no place that it shows."""
        self.map = bytearray(WIDTH * WIDTH)
        self.at, self.looks, self.cows = START, 0, {}

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
            "looks": self.looks,
            "creatures": [[cell, name] for cell, name in self.creatures.items()],
            "cows": [[cell, look] for cell, look in self.cows.items()],
            "expected": self._expected,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Memory:
        """The inverse of ``to_json``."""
        memory = cls()
        memory.map = bytearray(zlib.decompress(base64.b64decode(value["map"])))
        memory.at, memory.looks, memory._expected = value["at"], value["looks"], value["expected"]
        memory.creatures = dict(value["creatures"])
        memory.cows = dict(value["cows"])
        return memory


def _offsets(height: int, width: int) -> tuple[int, ...]:
    """Steps on the map from the player to each tile of a view, row by row."""
    key = (height, width)
    if key not in _OFFSETS:
        rows, columns = range(-(height // 2), height // 2 + 1), range(-(width // 2), width // 2 + 1)
        _OFFSETS[key] = tuple(dy * WIDTH + dx for dy in rows for dx in columns)
    return _OFFSETS[key]


_OFFSETS: dict[tuple[int, int], tuple[int, ...]] = {}
