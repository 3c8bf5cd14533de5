"""One frame's map as a small grid, and the ways over it: what the reactive player sees and where it can go.

Cells are whole numbers on a grid of 11 x 9: the view of 9 x 7 with a rim around it that nothing enters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.sight import Glance

COLUMNS, ROWS = 9, 7
WIDTH = COLUMNS + 2
ME = (ROWS // 2 + 1) * WIDTH + COLUMNS // 2 + 1
LEFT, RIGHT, UP, DOWN = -1, 1, -WIDTH, WIDTH
AROUND = (LEFT, RIGHT, UP, DOWN)
NEAR_3X3 = tuple(dy * WIDTH + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1))
MOVES = {LEFT: "move_left", RIGHT: "move_right", UP: "move_up", DOWN: "move_down"}
FAR = 99
"""More steps than any way within a view takes."""
_DEAREST = 8
"""No cell takes more steps to enter than this."""

COW, ZOMBIE, SKELETON, ARROW, RIM = 16, 17, 18, 19, 20
"""What stands on a cell, and what is beyond the view: numbers after the kinds of ground."""
_CODES = {**kinds.KIND_OF, "cow": COW, "zombie": ZOMBIE, "skeleton": SKELETON, "arrow": ARROW, "player": kinds.PATH}
FOES = frozenset({ZOMBIE, SKELETON})
DIGGABLE = frozenset({kinds.TREE, kinds.STONE, kinds.COAL, kinds.IRON, kinds.DIAMOND})
SOLID = DIGGABLE | {kinds.TABLE, kinds.FURNACE, kinds.WATER, kinds.OUTSIDE, kinds.PLANT, kinds.RIPE}
"""What no creature walks through."""

CELLS = tuple(row * WIDTH + column for row in range(1, ROWS + 1) for column in range(1, COLUMNS + 1))
_X = tuple(cell % WIDTH for cell in range(WIDTH * (ROWS + 2)))
_Y = tuple(cell // WIDTH for cell in range(WIDTH * (ROWS + 2)))


def grid(glance: Glance) -> list[int]:
    """The view's codes, cell by cell, with the rim."""
    codes = [RIM] * WIDTH
    for row in glance.view:
        codes.append(RIM)
        codes += [_CODES[name] for name in row]
        codes.append(RIM)
    codes += [RIM] * WIDTH
    return codes


def entry_costs(items: Mapping[str, int], *, dark: bool) -> list[int]:
    """Steps that it takes to enter each kind of cell; 0 where it cannot be entered. Lava never can."""
    costs = [0] * (RIM + 1)
    costs[kinds.PATH] = costs[kinds.SAND] = costs[kinds.UNKNOWN] = 1
    costs[kinds.GRASS] = 3 if dark else 1  # in the dark zombies come on grass
    costs[kinds.TREE] = 3
    if items.get("wood_pickaxe"):
        costs[kinds.STONE] = costs[kinds.COAL] = 3
        if items.get("stone"):
            costs[kinds.WATER] = 5  # a stone makes a bridge, and is taken up again
    if items.get("stone_pickaxe"):
        costs[kinds.IRON] = 3
    if items.get("iron_pickaxe"):
        costs[kinds.DIAMOND] = 3
    return costs


@dataclass(slots=True)
class Reach:
    """The steps to each cell of the view, and the way to it."""

    cost: list[int]
    """``FAR`` where no way leads."""
    came_from: list[int]

    def path(self, cell: int) -> list[int]:
        """Cells from the one after the player to ``cell``; empty when the player is there."""
        steps = []
        while cell != ME:
            steps.append(cell)
            cell = self.came_from[cell]
        steps.reverse()
        return steps

    def beside(self, target: int) -> tuple[int, int]:
        """(steps, cell) of the nearest cell from which ``target`` can be used; (FAR, 0) if there is none."""
        best, where = FAR, 0
        for step in AROUND:
            cell = target + step
            if self.cost[cell] < best:
                best, where = self.cost[cell], cell
        return best, where


def stays_in_view(path: list[int], target: int) -> bool:
    """True when from every cell of the way the rest of it, and the target, are in view.

    Only then is the way still known after a step along it, and the step not undone by the next decision.
    """
    spots = [ME, *path, target]
    xs, ys = [_X[cell] for cell in spots], [_Y[cell] for cell in spots]
    wide, high = COLUMNS // 2, ROWS // 2
    if max(xs) - min(xs) <= wide and max(ys) - min(ys) <= high:
        return True
    return all(
        abs(xs[later] - xs[i]) <= wide and abs(ys[later] - ys[i]) <= high
        for i in range(len(spots))
        for later in range(i + 1, len(spots))
    )


def flood(codes: list[int], costs: list[int], first: int) -> Reach:
    """Go outwards from the player over the whole view. Of equal ways, the one that begins with the step ``first``."""
    cost, came_from = [FAR] * len(codes), [0] * len(codes)
    cost[ME] = 0
    steps = (first, *(step for step in AROUND if step != first)) if first else AROUND
    buckets: list[list[int]] = [[] for _ in range(FAR)]
    buckets[0].append(ME)
    waiting = 1
    for done in range(FAR - _DEAREST):
        for cell in buckets[done]:
            waiting -= 1
            if cost[cell] < done:
                continue
            for step in steps:
                beside = cell + step
                entry = costs[codes[beside]]
                if entry and done + entry < cost[beside]:
                    cost[beside] = done + entry
                    came_from[beside] = cell
                    buckets[done + entry].append(beside)
                    waiting += 1
        if not waiting:
            break
    return Reach(cost, came_from)
