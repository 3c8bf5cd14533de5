"""A place to sleep, as far as one frame tells: is the player closed in, and what is the next step towards being so.

Facing a free cell without entering it is possible only by walking towards it from behind. So a shelter is two cells in
line, an outer and an inner one, with walls along both: the player goes into the inner cell, puts a stone at its end if
that is open, steps back into the outer cell, faces the door by that, and closes it.
"""

from __future__ import annotations

from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.reactive_view import AROUND, LEFT, ME, SOLID, UP, Reach, stays_in_view

ROOM = kinds.FREE | {kinds.STONE, kinds.COAL, kinds.TREE, kinds.WATER}
"""What can be made into a cell of a shelter with a wood pickaxe."""
MOST_CELLS = 4
CLOSE = 99
"""Instead of a step: put a stone ahead."""


def sealed(codes: list[int], door: int = 0) -> bool:
    """True when the player is in a small closed room, alone, or would be with a stone on the cell ``door``."""
    room = [ME]
    for cell in room:
        for step in AROUND:
            beside = cell + step
            if beside == door or beside in room or codes[beside] in SOLID:
                continue
            if codes[beside] not in kinds.FREE or len(room) == MOST_CELLS:
                return False
            room.append(beside)
    return True


def next_step(codes: list[int], reach: Reach, ahead: int, stones: int, *, limit: int) -> int:
    """The step to make towards the shelter that is ready soonest, or ``CLOSE``; 0 if none is within ``limit`` actions.

    ``ahead`` is the step that the player faces, ``stones`` how many it has.
    """
    best, choice = limit + 1, 0
    for outer, steps in enumerate(reach.cost):
        if steps >= best or codes[outer] not in ROOM:
            continue
        for way in AROUND:
            if not _fits(codes, outer, way, stones):
                continue
            total, step = _remaining(codes, outer, way, steps, ahead)
            if total < best and (step or stays_in_view(reach.path(outer), outer - 2 * way)):
                best, choice = total, step or reach.path(outer)[0] - ME
    return choice


def _fits(codes: list[int], outer: int, way: int, stones: int) -> bool:
    """True when a shelter can be made whose door is that ``way`` of the outer cell."""
    door, inner = outer + way, outer - way
    if codes[inner] not in ROOM or codes[door] not in kinds.FREE:
        return False
    side = UP if abs(way) == 1 else LEFT
    if not all(codes[cell + by] in SOLID for cell in (outer, inner) for by in (side, -side)):
        return False
    end = codes[inner - way]
    if end not in SOLID and end not in kinds.FREE:
        return False
    stones += (codes[outer] == kinds.STONE) + (codes[inner] == kinds.STONE)
    return stones >= (1 if end in SOLID else 2)


def _remaining(codes: list[int], outer: int, way: int, steps: int, ahead: int) -> tuple[int, int]:
    """How many actions it still takes, and the step to make; 0 where that is the way to the outer cell."""
    inner = outer - way
    ends = codes[inner - way] in SOLID
    if inner == ME:
        if ends:
            return 2, way
        return (3, CLOSE) if ahead == -way else (5, way)
    total = steps + 3 + (0 if ends else 1) + (0 if codes[inner] in kinds.FREE else 2)
    return total, -way if outer == ME else 0
