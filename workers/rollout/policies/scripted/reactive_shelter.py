"""A place to sleep, as far as one frame tells: is the player closed in, and what is the next step towards being so.

Facing a free cell without entering it is possible only by walking towards it from behind. So a shelter is two cells in
line within the rock: the player goes into the inner one, steps back out of it, faces the door by that, and closes it.
"""

from __future__ import annotations

from collections.abc import Mapping

from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.reactive_view import AROUND, FREE, LEFT, ME, SOLID, UP, Reach

ROOM = frozenset({kinds.STONE, kinds.COAL, kinds.PATH, kinds.GRASS, kinds.SAND})
"""What can be made into a cell of a shelter with a wood pickaxe."""
MOST_CELLS = 4


def sealed(codes: list[int], door: int = 0) -> bool:
    """True when the player is in a small closed room, alone, were there a stone on the cell ``door``."""
    room = [ME]
    for cell in room:
        for step in AROUND:
            beside = cell + step
            if beside == door or beside in room or codes[beside] in SOLID:
                continue
            if codes[beside] not in FREE or len(room) == MOST_CELLS:
                return False
            room.append(beside)
    return True


def find(codes: list[int], reach: Reach, items: Mapping[str, int], limit: int) -> tuple[int, int] | None:
    """(outer cell, direction to its door) of the shelter that is made soonest, in at most ``limit`` steps, or None."""
    best, choice = limit + 1, None
    for outer in range(len(codes)):
        steps = reach.cost[outer]
        if steps >= best or codes[outer] not in ROOM:
            continue
        for way in AROUND:
            door, inner = outer + way, outer - way
            if codes[inner] not in ROOM or not (codes[door] in FREE or door == ME):
                continue
            if not items.get("stone") and kinds.STONE not in (codes[outer], codes[inner]):
                continue
            side = UP if abs(way) == 1 else LEFT
            walls = (outer + side, outer - side, inner + side, inner - side, inner - way)
            if not all(codes[wall] in SOLID for wall in walls):
                continue
            total = _steps(outer, inner, steps, free=codes[inner] in FREE)
            if total < best:
                best, choice = total, (outer, way)
    return choice


def _steps(outer: int, inner: int, steps: int, *, free: bool) -> int:
    if inner == ME:
        return 2
    return steps + (3 if free else 5)
