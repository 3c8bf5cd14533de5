"""One frame's map as a small grid, and the ways over it: what the reactive player sees and where it can go.

Cells are whole numbers on a grid of 11 x 9: the view of 9 x 7 with a rim of unknown cells around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

COW, ZOMBIE, SKELETON, ARROW = 16, 17, 18, 19
"""What stands on a cell, beside the kinds of ground."""
_CODES = {**kinds.KIND_OF, "cow": COW, "zombie": ZOMBIE, "skeleton": SKELETON, "arrow": ARROW, "player": kinds.PATH}
FREE = kinds.FREE
DANGERS = frozenset({ZOMBIE, SKELETON, ARROW})
DIGGABLE = frozenset({kinds.TREE, kinds.STONE, kinds.COAL, kinds.IRON, kinds.DIAMOND})
SOLID = frozenset({*DIGGABLE, kinds.TABLE, kinds.FURNACE, kinds.WATER, kinds.OUTSIDE, kinds.PLANT, kinds.RIPE})
"""What no creature walks through."""

_X = tuple(cell % WIDTH for cell in range(WIDTH * (ROWS + 2)))
_Y = tuple(cell // WIDTH for cell in range(WIDTH * (ROWS + 2)))
CELLS = tuple(row * WIDTH + column for row in range(1, ROWS + 1) for column in range(1, COLUMNS + 1))


def grid(glance: Glance) -> list[int]:
    """The view's codes, cell by cell, with the rim."""
    codes = [kinds.UNKNOWN] * WIDTH
    for row in glance.view:
        codes.append(kinds.UNKNOWN)
        codes += [_CODES[name] for name in row]
        codes.append(kinds.UNKNOWN)
    codes += [kinds.UNKNOWN] * WIDTH
    return codes


def entry_costs(items: Mapping[str, int]) -> list[int]:
    """Steps that it takes to enter each kind of cell; 0 where it cannot be entered. Lava never can."""
    costs = [0] * (ARROW + 1)
    costs[kinds.GRASS] = costs[kinds.PATH] = costs[kinds.SAND] = 1
    costs[kinds.TREE] = 3
    if items.get("wood_pickaxe"):
        costs[kinds.STONE] = costs[kinds.COAL] = 3
        if items.get("stone"):
            costs[kinds.WATER] = 5
    if items.get("stone_pickaxe"):
        costs[kinds.IRON] = 3
    if items.get("iron_pickaxe"):
        costs[kinds.DIAMOND] = 3
    return costs


@dataclass(slots=True)
class Reach:
    """The steps to each cell of the view, and the way to it."""

    cost: list[int]
    came_from: list[int]
    codes: list[int]

    def path(self, cell: int) -> list[int]:
        """Cells from the one after the player to ``cell``."""
        steps = []
        while cell != ME:
            steps.append(cell)
            cell = self.came_from[cell]
        steps.reverse()
        return steps

    def beside(self, target: int) -> tuple[int, int]:
        """(steps, cell) of the nearest cell from which ``target`` can be used; (FAR, 0) if there is none."""
        cost = self.cost
        best, where = FAR, 0
        for step in AROUND:
            cell = target + step
            if cost[cell] < best:
                best, where = cost[cell], cell
        return best, where

    def keeps_sight(self, path: list[int], target: int) -> bool:
        """True when on every step of the way the rest of it, and the target, stay in view: so no step is ever undone."""
        spots = [ME, *path, target]
        xs, ys = [_X[cell] for cell in spots], [_Y[cell] for cell in spots]
        if max(xs) - min(xs) <= COLUMNS // 2 and max(ys) - min(ys) <= ROWS // 2:
            return True
        for i in range(len(spots) - 1):
            x, y = xs[i], ys[i]
            for j in range(i + 1, len(spots)):
                if abs(xs[j] - x) > COLUMNS // 2 or abs(ys[j] - y) > ROWS // 2:
                    return False
        return True


def flood(codes: list[int], costs: list[int], first: int) -> Reach:
    """Go outwards from the player over the whole view. Among equal ways, that which begins with the step ``first``."""
    cost, came_from = [FAR] * len(codes), [0] * len(codes)
    cost[ME] = 0
    steps = (first, *(step for step in AROUND if step != first)) if first else AROUND
    buckets: list[list[int]] = [[ME]]
    buckets += [[] for _ in range(FAR)]
    left = 1
    for done in range(FAR - 8):
        for cell in buckets[done]:
            left -= 1
            if cost[cell] < done:
                continue
            for step in steps:
                beside = cell + step
                entry = costs[codes[beside]]
                if entry:
                    total = done + entry
                    if total < cost[beside]:
                        cost[beside] = total
                        came_from[beside] = cell
                        buckets[total].append(beside)
                        left += 1
        if not left:
            break
    return Reach(cost, came_from, codes)


def found(codes: list[int], kind: int) -> Iterable[int]:
    """Every cell of a kind."""
    return [cell for cell in CELLS if codes[cell] == kind]
