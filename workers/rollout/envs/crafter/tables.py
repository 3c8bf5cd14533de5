"""Crafter's names, numbers and recipes, as plain tables. Held equal to the package's own data by a test."""

from __future__ import annotations

from typing import NamedTuple

from app.specs.crafter import ACHIEVEMENTS as ACHIEVEMENTS  # specs name them too

ACTIONS = (
    "noop",
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "do",
    "sleep",
    "place_stone",
    "place_table",
    "place_furnace",
    "place_plant",
    "make_wood_pickaxe",
    "make_stone_pickaxe",
    "make_iron_pickaxe",
    "make_wood_sword",
    "make_stone_sword",
    "make_iron_sword",
)

ITEMS = (
    "health",
    "food",
    "drink",
    "energy",
    "sapling",
    "wood",
    "stone",
    "coal",
    "iron",
    "diamond",
    "wood_pickaxe",
    "stone_pickaxe",
    "iron_pickaxe",
    "wood_sword",
    "stone_sword",
    "iron_sword",
)
"""In the order of the inventory's slots."""

VITALS = ITEMS[:4]
MOST = 9
"""The most that a player can have of any item; the vitals begin there."""

OUTSIDE = "outside"
MATERIALS = (
    OUTSIDE,
    "water",
    "grass",
    "stone",
    "path",
    "sand",
    "tree",
    "lava",
    "coal",
    "iron",
    "diamond",
    "table",
    "furnace",
)
"""Name by number, as in the semantic view; 0 is beyond the map."""

WATER, GRASS, STONE, PATH, SAND, TREE, LAVA, COAL, IRON, DIAMOND, TABLE, FURNACE = range(1, 13)

OBJECTS = ("player", "cow", "zombie", "skeleton", "arrow", "plant")
"""In the order of their numbers in the semantic view, which go on after the materials."""
SEMANTIC = {name: len(MATERIALS) + i for i, name in enumerate(OBJECTS)}

SPRITES = (
    "player-left",
    "player-right",
    "player-up",
    "player-down",
    "player-sleep",
    "cow",
    "zombie",
    "skeleton",
    "arrow-left",
    "arrow-right",
    "arrow-up",
    "arrow-down",
    "plant",
    "plant-ripe",
)
"""Pictures of objects, by number."""

DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Left, right, up, down: the order in which Crafter draws a random direction and in which the sprites stand."""
DIRECTION_NAMES = ("left", "right", "up", "down")


class Collect(NamedTuple):
    """What `do` on a material needs, gives and leaves behind."""

    item: str
    leaves: int
    tool: str | None = None
    probability: float = 1.0


COLLECT = {
    TREE: Collect("wood", GRASS),
    STONE: Collect("stone", PATH, "wood_pickaxe"),
    COAL: Collect("coal", PATH, "wood_pickaxe"),
    IRON: Collect("iron", PATH, "stone_pickaxe"),
    DIAMOND: Collect("diamond", PATH, "iron_pickaxe"),
    WATER: Collect("drink", WATER),
    GRASS: Collect("sapling", GRASS, None, 0.1),
}


class Place(NamedTuple):
    """What an item that is set down costs, and on which materials it may stand."""

    uses: tuple[tuple[str, int], ...]
    where: frozenset[int]
    material: int | None
    """What the tile becomes; None for the plant, which is an object."""


PLACE = {
    "stone": Place((("stone", 1),), frozenset({GRASS, SAND, PATH, WATER, LAVA}), STONE),
    "table": Place((("wood", 2),), frozenset({GRASS, SAND, PATH}), TABLE),
    "furnace": Place((("stone", 4),), frozenset({GRASS, SAND, PATH}), FURNACE),
    "plant": Place((("sapling", 1),), frozenset({GRASS}), None),
}


class Make(NamedTuple):
    """What a tool costs, and which materials must be within the 3x3 tiles around the player."""

    uses: tuple[tuple[str, int], ...]
    nearby: tuple[int, ...]


MAKE = {
    "wood_pickaxe": Make((("wood", 1),), (TABLE,)),
    "stone_pickaxe": Make((("wood", 1), ("stone", 1)), (TABLE,)),
    "iron_pickaxe": Make((("wood", 1), ("coal", 1), ("iron", 1)), (TABLE, FURNACE)),
    "wood_sword": Make((("wood", 1),), (TABLE,)),
    "stone_sword": Make((("wood", 1), ("stone", 1)), (TABLE,)),
    "iron_sword": Make((("wood", 1), ("coal", 1), ("iron", 1)), (TABLE, FURNACE)),
}


def _among(*materials: int) -> bytes:
    """A table that holds 1 for these materials, else 0."""
    return bytes(number in materials for number in range(len(MATERIALS)))


WALKABLE = _among(GRASS, PATH, SAND)
WALKABLE_PLAYER = _among(GRASS, PATH, SAND, LAVA)
WALKABLE_ARROW = _among(GRASS, PATH, SAND, WATER, LAVA)
