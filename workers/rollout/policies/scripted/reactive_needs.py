"""What the reactive player lacks, read from what it holds: how much of each kind to have, and how far to go for it."""

from __future__ import annotations

from collections.abc import Mapping

from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.needs import IRON_TOOLS, STONE_TOOLS, WOOD_TOOLS
from workers.rollout.policies.scripted.reactive_view import COW, FAR, SKELETON, ZOMBIE
from workers.rollout.policies.scripted.sight import Glance

ALL = 9
"""As much as there is room for."""
DRINK_WITHIN = (FAR, FAR, FAR, FAR, 12, 10, 6, 4, 2)
"""Steps that are worth going for water, by how much drink is left; cows likewise by food."""
EAT_WITHIN = (FAR, FAR, FAR, FAR, 12, 10, 8, 6, 4)
URGENT = 3
"""Food or drink at or below which it goes before all work."""


def missing(items: Mapping[str, int], tools: tuple[str, ...]) -> int:
    """How many of these tools the player does not have."""
    return sum(not items.get(tool) for tool in tools)


def wood_wanted(items: Mapping[str, int], *, table: bool) -> int:
    """Wood to have in hand; less with a table in sight."""
    if not items.get("wood_pickaxe"):
        return missing(items, WOOD_TOOLS) + (0 if table else 2)
    if not items.get("stone_pickaxe"):
        return ALL
    later = missing(items, STONE_TOOLS) + missing(items, IRON_TOOLS)
    return later + 2 if later else 0


def stone_wanted(items: Mapping[str, int]) -> int:
    """Stone to have in hand."""
    if not items.get("stone_pickaxe"):
        return 6
    return 6 if missing(items, IRON_TOOLS) else 3


def wants(glance: Glance, *, table: bool) -> dict[int, tuple[int, int]]:
    """The kinds worth walking to: (handicap in steps, the most steps to go)."""
    items = glance.items
    have = items.get
    found: dict[int, tuple[int, int]] = {}
    _body(glance, found)
    armed = have("stone_sword") or have("iron_sword") or have("wood_sword")
    if armed and glance.health >= 5:
        found[ZOMBIE] = (2, 3)
    if armed and glance.health >= 6:
        found[SKELETON] = (0, 8)
    if have("wood", 0) < wood_wanted(items, table=table):
        found[kinds.TREE] = (0, FAR)
    if have("wood_pickaxe"):
        if have("stone", 0) < stone_wanted(items):
            found[kinds.STONE] = (0 if not have("stone_pickaxe") else 4, FAR)
        if have("coal", 0) < max(missing(items, IRON_TOOLS), 1):
            found[kinds.COAL] = (0, FAR)
    if have("stone_pickaxe") and have("iron", 0) < missing(items, IRON_TOOLS):
        found[kinds.IRON] = (-8, FAR)
    if have("iron_pickaxe"):
        found[kinds.DIAMOND] = (-8, FAR)
    return found


def _body(glance: Glance, found: dict[int, tuple[int, int]]) -> None:
    if glance.drink < ALL:
        found[kinds.WATER] = (-2, DRINK_WITHIN[glance.drink])
    if glance.food < ALL:
        found[COW] = (-2, EAT_WITHIN[glance.food])
        found[kinds.RIPE] = (-10, FAR)


def urgent(glance: Glance) -> dict[int, tuple[int, int]]:
    """What to look for before all else."""
    found: dict[int, tuple[int, int]] = {}
    if glance.drink <= URGENT:
        found[kinds.WATER] = (glance.drink, FAR)
    if glance.food <= URGENT:
        found[COW] = found[kinds.RIPE] = (glance.food, FAR)
    return found
