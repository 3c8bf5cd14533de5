"""A place to sleep: two cells in line inside the rock, entered from one side and closed behind with a stone.

Facing a free cell without entering it is possible only by walking towards it from behind, so one cell is not enough:
the player goes into the inner cell, steps back out of it, faces the door by that, and closes it.
"""

from __future__ import annotations

from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.memory import Memory
from workers.rollout.policies.scripted.paths import AROUND, Reach

SOLID = frozenset(
    {kinds.STONE, kinds.COAL, kinds.IRON, kinds.DIAMOND, kinds.TABLE, kinds.FURNACE, kinds.TREE, kinds.WATER, kinds.OUTSIDE}
)
"""What no creature walks through."""
ROOM = frozenset({kinds.STONE, kinds.COAL, kinds.PATH})
"""What can be made into a cell of a shelter with a wood pickaxe."""


def sealed(memory: Memory) -> bool:
    """True when the player is in a closed room of one or two cells, alone."""
    room = [memory.at]
    for cell in room:
        for step in AROUND:
            beside = cell + step
            if beside in room or memory.map[beside] in SOLID:
                continue
            if beside in memory.creatures or memory.map[beside] not in kinds.FREE or len(room) == 2:
                return False
            room.append(beside)
    return True


def find(memory: Memory, reach: Reach, *, stones: int) -> tuple[int, int] | None:
    """The nearest (door cell, direction inwards) behind which a shelter can be made, or None."""
    ground = memory.map
    for door in reach.cells:
        if ground[door] not in kinds.FREE:
            continue
        for step in AROUND:
            outer, inner = door + step, door + 2 * step
            if ground[outer] not in ROOM or ground[inner] not in ROOM:
                continue
            if not stones and kinds.STONE not in (ground[outer], ground[inner]):
                continue
            side = AROUND[2] if abs(step) == 1 else AROUND[0]
            walls = (outer + side, outer - side, inner + side, inner - side, inner + step)
            if all(ground[wall] in SOLID for wall in walls):
                return door, step
    return None
