"""Kinds of ground as small numbers, so that a map is a ``bytearray`` and a lookup is an index."""

from __future__ import annotations

UNKNOWN = 0
"""Never seen."""
GRASS = 1
SAND = 2
PATH = 3
TREE = 4
WATER = 5
STONE = 6
COAL = 7
IRON = 8
DIAMOND = 9
TABLE = 10
FURNACE = 11
LAVA = 12
PLANT = 13
"""A sapling that is not ripe."""
RIPE = 14
OUTSIDE = 15
"""Beyond the edge of the world."""

KIND_OF = {
    "unknown": UNKNOWN,
    "grass": GRASS,
    "sand": SAND,
    "path": PATH,
    "tree": TREE,
    "water": WATER,
    "stone": STONE,
    "coal": COAL,
    "iron": IRON,
    "diamond": DIAMOND,
    "table": TABLE,
    "furnace": FURNACE,
    "lava": LAVA,
    "plant": PLANT,
    "plant-ripe": RIPE,
    "outside": OUTSIDE,
}
"""By the names in a view. Creatures are not ground and are not here. ``unknown`` is in no frame, only in views that are
imagined: what lay beyond the frame that they are imagined from."""
FREE = frozenset({GRASS, SAND, PATH})
"""What can be walked on."""
