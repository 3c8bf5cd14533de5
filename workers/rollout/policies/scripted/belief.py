"""What an action should do to what is known, as long as nothing else moves: the player's own part of Crafter's rules.

It serves to keep track of the player between looks, and to plan several actions from one frame.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from workers.rollout.policies.scripted import kinds, needs
from workers.rollout.policies.scripted.hands import Hands
from workers.rollout.policies.scripted.memory import MOVES, WIDTH, Memory
from workers.rollout.policies.scripted.paths import AROUND
from workers.rollout.policies.scripted.sight import Glance, Sight

MOST = 9
"""The most that a player can have of anything."""
_LEAVES = {
    kinds.TREE: ("wood", kinds.GRASS),
    kinds.STONE: ("stone", kinds.PATH),
    kinds.COAL: ("coal", kinds.PATH),
    kinds.IRON: ("iron", kinds.PATH),
    kinds.DIAMOND: ("diamond", kinds.PATH),
}
"""What is gained from a kind of ground, and what it becomes."""
_PLACED = {
    "place_stone": ("stone", 1, kinds.STONE, kinds.FREE | {kinds.WATER, kinds.LAVA}),
    "place_table": ("wood", needs.TABLE_WOOD, kinds.TABLE, kinds.FREE),
    "place_furnace": ("stone", needs.FURNACE_STONE, kinds.FURNACE, kinds.FREE),
    "place_plant": ("sapling", 1, kinds.PLANT, frozenset({kinds.GRASS})),
}
"""What is used up, how much of it, what the faced cell becomes, and what it must have been."""

_NAMES = {kind: name for name, kind in kinds.KIND_OF.items()}

G = TypeVar("G", bound=Glance)


def foresee(sight: G, memory: Memory, action: str) -> tuple[G, bool]:
    """Carry out an action on ``memory``; gives the sight that follows, and whether all this is certain.

    The view in the sight stays the old one: what is believed of the ground is in the memory. Nothing is certain of a sleeper,
    in sight of foes, of waiting, and where it takes luck or a creature to stand still.
    """
    hands = Hands(sight, memory)
    calm = not hands.watched()
    memory.acted()
    if sight.sleeping and sight.energy < MOST:
        return sight, False
    if action in MOVES:
        after, certain = _move(sight, memory, action)
    elif action == "do":
        after, certain = _do(sight, memory, hands)
    elif action in _PLACED:
        after, certain = _place(sight, memory, hands, action), True
    elif action.startswith("make_"):
        after, certain = _make(sight, hands, action), True
    else:
        after, certain = sight, False
    return after, certain and calm


def view_from(memory: Memory) -> list[list[str]]:
    """The view as it is believed to be from where the player is: 7 rows of 9 names, ``unknown`` where nothing was seen."""
    rows = range(memory.at - 3 * WIDTH, memory.at + 4 * WIDTH, WIDTH)
    view = [[memory.creatures.get(cell) or _NAMES[memory.map[cell]] for cell in range(row - 4, row + 5)] for row in rows]
    view[3][4] = "player"
    return view


def _move(sight: G, memory: Memory, action: str) -> tuple[G, bool]:
    dx, dy = MOVES[action]
    ahead = memory.at + dy * WIDTH + dx
    certain = memory.map[ahead] != kinds.UNKNOWN and ahead not in memory.creatures
    if memory.map[ahead] in kinds.FREE and ahead not in memory.creatures:
        certain = not any(ahead + step in memory.creatures for step in AROUND)
        memory.at = ahead
    return replace(sight, facing=(dx, dy)), certain


def _do(sight: G, memory: Memory, hands: Hands) -> tuple[G, bool]:
    cell, kind = hands.faced, memory.map[hands.faced]
    if cell in memory.creatures or kind in (kinds.UNKNOWN, kinds.GRASS, kinds.RIPE):
        return sight, False
    if kind == kinds.WATER:
        return _changed(sight, {}, "collect_drink", drink=min(MOST, sight.drink + 1)), True
    if kind not in _LEAVES or not hands.gives(kind):
        return sight, True
    item, memory.map[cell] = _LEAVES[kind]
    return _changed(sight, {item: 1}, f"collect_{item}"), True


def _place(sight: G, memory: Memory, hands: Hands, action: str) -> G:
    item, count, kind, where = _PLACED[action]
    if hands.have(item, 0) < count or memory.map[hands.faced] not in where or hands.faced in memory.creatures:
        return sight
    memory.map[hands.faced] = kind
    return _changed(sight, {item: -count}, action)


def _make(sight: G, hands: Hands, action: str) -> G:
    tool = action.removeprefix("make_")
    if not hands.near(kinds.TABLE) or (tool in needs.IRON_TOOLS and not hands.near(kinds.FURNACE)):
        return sight
    cost = needs.COST[tool]
    if any(hands.have(item, 0) < count for item, count in cost.items()):
        return sight
    return _changed(sight, {tool: 1} | {item: -count for item, count in cost.items()}, action)


def _changed(sight: G, gains: dict[str, int], achievement: str, **more: Any) -> G:
    items = dict(sight.items)
    for item, gain in gains.items():
        items[item] = min(MOST, items.get(item, 0) + gain)
    if isinstance(sight, Sight):
        more["unlocked"] = sight.unlocked | {achievement}
    return replace(sight, items={item: count for item, count in items.items() if count}, **more)
