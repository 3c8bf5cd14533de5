"""Ways over the remembered map: one flood from the player outwards finds the nearest of everything at once.

Dijkstra with whole-number costs, so a list of buckets serves as the queue. A cell that cannot be entered is still
*touched* from the cell beside it, which is how trees, water and creatures are reached.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.memory import WIDTH, Memory

Kind = int | str
"""A kind of ground, or the name of a creature."""
FAR = 1 << 30
AROUND = (-1, 1, -WIDTH, WIDTH)
NEAR_3X3 = (-WIDTH - 1, -WIDTH, -WIDTH + 1, -1, 0, 1, WIDTH - 1, WIDTH, WIDTH + 1)


ZOMBIE_COSTS = tuple(
    (dy * WIDTH + dx, 5 - 2 * (abs(dx) + abs(dy) - 1)) for dy in range(-3, 4) for dx in range(-3, 4) if 0 < abs(dx) + abs(dy) <= 3
)
"""Cells around a zombie and what each costs more."""
ARROW_REACH = 4


@dataclass(slots=True)
class Reach:
    """What a flood found."""

    cost: list[int] = field(default_factory=lambda: [FAR] * (WIDTH * WIDTH))
    """Steps to each cell; ``FAR`` where the flood did not come."""
    cells: list[int] = field(default_factory=list)
    """Cells that it came to and went on from, the nearest first."""
    came_from: dict[int, int] = field(default_factory=dict)
    touched: dict[Kind, tuple[int, int, int]] = field(default_factory=dict)
    """Nearest of each kind: (steps to the cell beside it, that cell, its own cell)."""
    goal: int | None = None
    """The nearest of the cells that were asked for."""

    def path(self, cell: int) -> list[int]:
        """Cells from the one after the player to ``cell``; empty when the player is there."""
        steps = []
        while cell in self.came_from:
            steps.append(cell)
            cell = self.came_from[cell]
        steps.reverse()
        return steps


def entry_costs(items: Mapping[str, int], *, dark: bool) -> list[int]:
    """Steps that it takes to enter each kind of ground; 0 where it cannot be entered. Lava never can."""
    costs = [0] * 16
    costs[kinds.PATH] = costs[kinds.SAND] = 1
    costs[kinds.GRASS] = 3 if dark else 1  # in the dark zombies come on grass
    costs[kinds.TREE] = 5
    if items.get("wood_pickaxe"):
        costs[kinds.STONE] = costs[kinds.COAL] = 3
    if items.get("stone_pickaxe"):
        costs[kinds.IRON] = 3
    if items.get("iron_pickaxe"):
        costs[kinds.DIAMOND] = 3
    if items.get("stone") and items.get("wood_pickaxe"):
        costs[kinds.WATER] = 5  # a stone makes a bridge, and is taken up again
    return costs


def dangers(memory: Memory) -> dict[int, int]:
    """Steps that it is worth not to enter a cell, for what may happen there."""
    found: dict[int, int] = {}
    for cell, name in memory.creatures.items():
        if name == "zombie":
            for offset, cost in ZOMBIE_COSTS:
                found[cell + offset] = max(found.get(cell + offset, 0), cost)
        elif name == "skeleton":
            for step in AROUND:
                for far in range(1, ARROW_REACH + 1):
                    ahead = cell + far * step
                    if memory.map[ahead] not in kinds.FREE:
                        break
                    found[ahead] = max(found.get(ahead, 0), 2)
    return found


def flood(
    memory: Memory,
    costs: list[int],
    *,
    limit: int,
    danger: Mapping[int, int],
    wants: Mapping[Kind, int] | None = None,
    goals: Collection[int] = (),
) -> Reach:
    """Go outwards from the player up to ``limit`` steps; ``danger`` tells of cells that cost more than their kind does.

    With ``wants`` (a handicap in steps for each kind) it stops as soon as nothing better can come; with ``goals``, at
    the first of those cells. Creatures block, remembered cows do not.
    """
    ground, blocked, start = memory.map, memory.creatures, memory.at
    reach = Reach()
    cost, touched, came_from = reach.cost, reach.touched, reach.came_from
    cost[start] = 0
    best, least = FAR, min(wants.values()) if wants else 0
    buckets: list[list[int]] = [[] for _ in range(limit + max(costs) + max(danger.values(), default=0) + 1)]
    buckets[0].append(start)
    for steps in range(limit + 1):
        if steps + least >= best:
            break
        for cell in buckets[steps]:
            if cost[cell] < steps:
                continue
            if cell in goals:
                reach.goal = cell
                return reach
            reach.cells.append(cell)
            for step in AROUND:
                beside = cell + step
                kind: Kind
                if beside in blocked:
                    kind, entry = blocked[beside], 0
                else:
                    kind = code = ground[beside]
                    entry = costs[code]
                if kind not in touched:
                    touched[kind] = (steps, cell, beside)
                    if wants is not None and kind in wants:
                        best = min(best, steps + wants[kind])
                if entry:
                    total = steps + entry
                    if beside in danger:
                        total += danger[beside]
                    if total < cost[beside]:
                        cost[beside] = total
                        came_from[beside] = cell
                        buckets[total].append(beside)
    return reach


def unseen_around(memory: Memory, cell: int, hints: Collection[int] = ()) -> tuple[int, int]:
    """How many cells of the view from ``cell`` are unknown, and how many are of the ``hints``."""
    ground, first = memory.map, cell - 3 * WIDTH - 4
    view = b"".join([ground[line : line + 9] for line in range(first, first + 7 * WIDTH, WIDTH)])
    return view.count(kinds.UNKNOWN), sum([view.count(hint) for hint in hints])


# Corners and middles of the edges of a view of 9 x 7.
CORNERS = (-3 * WIDTH - 4, -3 * WIDTH + 4, 3 * WIDTH - 4, 3 * WIDTH + 4, -3 * WIDTH, 3 * WIDTH, -4, 4)


def best_lookout(memory: Memory, reach: Reach, hints: Collection[int]) -> int | None:
    """The reached cell from which most new ground comes into sight for the steps it takes; None when all is known."""
    best, best_worth = None, 0.0
    ground = memory.map
    for cell in reach.cells[1:]:
        if (cell ^ cell // WIDTH) & 1:  # every other cell will do, as on a chessboard
            continue
        if not any(ground[cell + corner] == kinds.UNKNOWN for corner in CORNERS):
            continue
        unknown, hinted = unseen_around(memory, cell, hints)
        worth = unknown * (1.0 + 0.05 * hinted) / (reach.cost[cell] + 5)
        if worth > best_worth:
            best, best_worth = cell, worth
    return best
