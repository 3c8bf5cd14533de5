"""What the player lacks: which kinds are worth walking to, and by how many steps one is preferred to another. Pure."""

from __future__ import annotations

from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.paths import Kind
from workers.rollout.policies.scripted.sight import Glance, Sight

THIRSTY = HUNGRY = 3
"""At or below this, drinking or eating goes before all work."""

WOOD_TOOLS = ("wood_pickaxe", "wood_sword")
STONE_TOOLS = ("stone_pickaxe", "stone_sword")
IRON_TOOLS = ("iron_pickaxe", "iron_sword")
COST = {
    **{tool: {"wood": 1} for tool in WOOD_TOOLS},
    **{tool: {"wood": 1, "stone": 1} for tool in STONE_TOOLS},
    **{tool: {"wood": 1, "coal": 1, "iron": 1} for tool in IRON_TOOLS},
}
TABLE_WOOD = 2
FURNACE_STONE = 4

GOALS: dict[Kind, str] = {
    kinds.TREE: "collect wood",
    kinds.STONE: "collect stone",
    kinds.COAL: "collect coal",
    kinds.IRON: "collect iron",
    kinds.DIAMOND: "collect a diamond",
    kinds.WATER: "drink",
    kinds.RIPE: "eat the ripe plant",
    "cow": "eat a cow",
    "zombie": "defeat a zombie",
    "skeleton": "defeat a skeleton",
}
"""A kind that is walked to, and what for."""


def missing(sight: Glance, tools: tuple[str, ...]) -> int:
    """How many of these tools the player does not have."""
    return sum(not sight.items.get(tool) for tool in tools)


def affordable(sight: Glance, tool: str) -> bool:
    """True when the player lacks the tool and has what it costs."""
    have = sight.items.get
    return not have(tool) and all(have(item, 0) >= count for item, count in COST[tool].items())


def wood_wanted(sight: Sight) -> int:
    """Wood to have in hand before going on: for the table and first tools, then for all later tools and a second table."""
    first = missing(sight, WOOD_TOOLS)
    if first:
        return first + (TABLE_WOOD + 1 if "place_table" not in sight.unlocked else 0)
    later = missing(sight, STONE_TOOLS) + missing(sight, IRON_TOOLS)
    return later + TABLE_WOOD if later else 0


def stone_wanted(sight: Sight) -> int:
    """Stone to have in hand: for tools, a furnace, and a door to close."""
    furnace = FURNACE_STONE if "place_furnace" not in sight.unlocked else 0
    return min(9, missing(sight, STONE_TOOLS) + furnace + 2)


def wants(sight: Sight) -> dict[Kind, int]:
    """The kinds worth walking to now, each with a handicap in steps: the smaller, the more it is wanted."""
    found: dict[Kind, int] = {}
    _body(sight, found)
    _foes(sight, found)
    _materials(sight, found)
    return found


def _body(sight: Sight, found: dict[Kind, int]) -> None:
    if "collect_drink" not in sight.unlocked or sight.drink <= 5:
        found[kinds.WATER] = 0
    elif sight.drink <= 7:
        found[kinds.WATER] = 8
    if "eat_cow" not in sight.unlocked or sight.food <= 5:
        found["cow"] = 0
    elif sight.food <= 6:
        found["cow"] = 8
    found[kinds.RIPE] = -10


def _foes(sight: Sight, found: dict[Kind, int]) -> None:
    armed = any(sight.items.get(sword) for sword in ("wood_sword", "stone_sword", "iron_sword"))
    if "defeat_zombie" not in sight.unlocked and sight.health >= (5 if armed else 7):
        found["zombie"] = 2
    if "defeat_skeleton" not in sight.unlocked and armed and sight.health >= 6:
        found["skeleton"] = 2


def _materials(sight: Sight, found: dict[Kind, int]) -> None:
    have = sight.items.get
    wood = have("wood", 0)
    if wood < wood_wanted(sight):
        urgent = missing(sight, WOOD_TOOLS) or wood < missing(sight, STONE_TOOLS)
        found[kinds.TREE] = 0 if urgent else 4
    if have("wood_pickaxe"):
        if have("stone", 0) < stone_wanted(sight):
            found[kinds.STONE] = 4 if not missing(sight, STONE_TOOLS) else 0
        if have("coal", 0) < max(missing(sight, IRON_TOOLS), "collect_coal" not in sight.unlocked):
            found[kinds.COAL] = 0
    if have("stone_pickaxe") and have("iron", 0) < max(missing(sight, IRON_TOOLS), "collect_iron" not in sight.unlocked):
        found[kinds.IRON] = -8
    if have("iron_pickaxe") and "collect_diamond" not in sight.unlocked:
        found[kinds.DIAMOND] = -8


def hints(sight: Sight) -> tuple[int, ...]:
    """Kinds of ground near which what is lacking tends to be."""
    if sight.drink <= THIRSTY:
        return kinds.WATER, kinds.SAND
    if sight.food <= HUNGRY or missing(sight, WOOD_TOOLS):
        return kinds.GRASS, kinds.TREE
    return kinds.STONE, kinds.PATH, kinds.COAL, kinds.LAVA
