"""What a player can do about the cells around it: look at them, face them, use them, put something on them."""

from __future__ import annotations

from collections.abc import Collection

from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.memory import MOVES, WIDTH, Memory
from workers.rollout.policies.scripted.paths import AROUND, NEAR_3X3, Kind, dangers, entry_costs
from workers.rollout.policies.scripted.sight import Glance

Decision = tuple[str, str]
"""An action, and the goal that it serves, in words."""
MOVE_BY = {dy * WIDTH + dx: action for action, (dx, dy) in MOVES.items()}
DIGGABLE = frozenset({kinds.TREE, kinds.STONE, kinds.COAL, kinds.IRON, kinds.DIAMOND})
FOES = ("zombie", "skeleton")
DANGERS = (*FOES, "arrow")


class Hands:
    """The player at one look, with what its hands can reach."""

    def __init__(self, sight: Glance, memory: Memory) -> None:
        self.sight, self.memory = sight, memory
        self.have = sight.items.get
        dx, dy = sight.facing
        self.faced = memory.at + dy * WIDTH + dx
        self.costs = entry_costs(sight.items, dark=sight.dark)
        self.danger = dangers(memory)

    def kind(self, cell: int) -> Kind:
        """What is on a cell: a creature's name, else the kind of ground."""
        return self.memory.creatures.get(cell) or self.memory.map[cell]

    def towards(self, cell: int) -> str:
        """The action that brings the player nearer to entering a neighbouring cell. Never ask it for lava."""
        if self.open(cell) or self.faced != cell:
            return MOVE_BY[cell - self.memory.at]
        if cell in self.memory.creatures:
            return "do"
        return "place_stone" if self.memory.map[cell] == kinds.WATER else "do"

    def use(self, cell: int) -> str:
        """The action that uses a neighbouring cell, or turns to it first."""
        return "do" if self.faced == cell else MOVE_BY[cell - self.memory.at]

    def open(self, cell: int) -> bool:
        """True when the cell is free ground with nobody on it."""
        return self.memory.map[cell] in kinds.FREE and cell not in self.memory.creatures

    def gives(self, kind: int) -> bool:
        """True when the player can gather this kind of ground."""
        return kind in DIGGABLE and self.costs[kind] > 0

    def enterable(self, cell: int) -> bool:
        """True when the player can come to stand there, if need be by digging."""
        return self.costs[self.memory.map[cell]] > 0

    def watched(self) -> bool:
        """True when a foe or an arrow is in sight."""
        return any(name in DANGERS and in_view(cell - self.memory.at) for cell, name in self.memory.creatures.items())

    def near(self, kind: int) -> bool:
        """True when this kind is within the 3x3 cells around the player."""
        return any(self.memory.map[self.memory.at + step] == kind for step in NEAR_3X3)

    def spots(self, *wanted: int) -> Collection[int]:
        """Cells from which all these kinds are within the 3x3 cells around."""
        sets = [{cell + step for cell in self.all(kind) for step in NEAR_3X3} for kind in wanted]
        return set.intersection(*sets)

    def all(self, kind: int) -> list[int]:
        """Every cell of a kind."""
        ground = self.memory.map
        cells, at = [], ground.find(kind)
        while at >= 0:
            cells.append(at)
            at = ground.find(kind, at + 1)
        return cells

    def put(self, action: str, goal: str, beside: int | None = None) -> Decision | None:
        """Place something on the faced cell, or make a faced cell for it, without leaving ``beside``."""
        if self.open(self.faced):
            return action, goal
        if self.gives(self.memory.map[self.faced]):
            return "do", goal
        for step in AROUND:
            ahead, beyond = self.memory.at + step, self.memory.at + 2 * step
            if self.gives(self.memory.map[ahead]):
                return MOVE_BY[step], goal
            stays = beside is None or any(self.memory.map[ahead + near] == beside for near in NEAR_3X3)
            if self.open(ahead) and self.open(beyond) and stays:
                return MOVE_BY[step], goal
        return None


def in_view(step: int) -> bool:
    """True when a frame shows the cell that lies this far from the player's."""
    down, right = divmod(step + 3 * WIDTH + 4, WIDTH)
    return 0 <= down < 7 and 0 <= right < 9
