"""What the reactive player lacks, read from what it holds: how far to go for each kind, and where such things tend to be."""

from __future__ import annotations

from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.needs import FURNACE_STONE, GOALS, IRON_TOOLS, STONE_TOOLS, TABLE_WOOD, WOOD_TOOLS, missing
from workers.rollout.policies.scripted.paths import Kind
from workers.rollout.policies.scripted.reactive_view import COW, FAR, SKELETON, ZOMBIE
from workers.rollout.policies.scripted.sight import Glance

FULL = 9
"""As much as there is room for."""
URGENT = 3
"""Food or drink at or below which it goes before all work."""
DRINK_WITHIN = (FAR, FAR, FAR, FAR, 12, 10, 6, 4, 2)
"""Steps worth going for water, by how much drink is left: little while there is much, so that it is had in passing."""
EAT_WITHIN = (FAR, FAR, FAR, FAR, 12, 10, 8, 6, 4)
"""The same for cows, by food."""
SPARE_STONE = 3
"""Stone to have when there is nothing left to make of it: for doors and bridges."""

GOAL_OF: dict[Kind, str] = {**GOALS, COW: GOALS["cow"], ZOMBIE: GOALS["zombie"], SKELETON: GOALS["skeleton"]}
"""A kind that is used, and what for."""

Wants = dict[int, tuple[int, int]]
"""The kinds worth walking to: (handicap in steps, the most steps to go)."""


def wood_wanted(glance: Glance, *, table: bool) -> int:
    """Wood to have in hand: for a table, unless one is in view, and the first tools; then as much as there is room for, which
    is enough for two more tables and all tools."""
    if not glance.items.get("wood_pickaxe"):
        return missing(glance, WOOD_TOOLS) + (0 if table else TABLE_WOOD)
    if not glance.items.get("stone_pickaxe"):
        return FULL
    later = missing(glance, STONE_TOOLS) + missing(glance, IRON_TOOLS)
    return later + TABLE_WOOD if later else 0


def stone_wanted(glance: Glance) -> int:
    """Stone to have in hand: for two tools and a furnace."""
    return 2 + FURNACE_STONE if missing(glance, STONE_TOOLS) or missing(glance, IRON_TOOLS) else SPARE_STONE


def wants(glance: Glance, *, table: bool) -> Wants:
    """What to walk to when nothing is urgent; ``table`` tells whether one is in view."""
    have = glance.items.get
    found: Wants = {}
    if glance.drink < FULL:
        found[kinds.WATER] = (0, DRINK_WITHIN[glance.drink])
    if glance.food < FULL:
        found[COW] = (0, EAT_WITHIN[glance.food])
        found[kinds.RIPE] = (-10, FAR)
    if (have("wood_sword") or have("stone_sword")) and glance.health >= 6:
        found[SKELETON] = (0, 8)
    if have("wood", 0) < wood_wanted(glance, table=table):
        found[kinds.TREE] = (0, FAR)
    lacking = missing(glance, IRON_TOOLS)
    if have("wood_pickaxe"):
        if have("stone", 0) < stone_wanted(glance):
            found[kinds.STONE] = (0, FAR)
        if have("coal", 0) < max(lacking, 1):
            found[kinds.COAL] = (0, FAR)
    if have("stone_pickaxe") and have("iron", 0) < lacking:
        found[kinds.IRON] = (-8, FAR)
    if have("iron_pickaxe"):
        found[kinds.DIAMOND] = (-8, FAR)
    return found


def urgent(glance: Glance) -> Wants:
    """What to walk to before all else: the scarcer, the sooner."""
    found: Wants = {}
    if glance.drink <= URGENT:
        found[kinds.WATER] = (glance.drink, FAR)
    if glance.food <= URGENT:
        found[COW] = found[kinds.RIPE] = (glance.food, FAR)
    return found


def hints(glance: Glance) -> frozenset[int]:
    """Kinds of ground near which what is lacking tends to be."""
    if glance.drink <= URGENT:
        return _SHORE
    if glance.food <= URGENT or not glance.items.get("wood_pickaxe"):
        return _MEADOW
    return _ROCK


_SHORE = frozenset({kinds.WATER, kinds.SAND})
_MEADOW = frozenset({kinds.GRASS, kinds.TREE})
_ROCK = frozenset({kinds.STONE, kinds.PATH, kinds.COAL, kinds.LAVA})
