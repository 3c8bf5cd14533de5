"""Crafter in words: its rules at two lengths, and the present state from ``status()``. Every number is the game's own.

Achievements are never phrased as commands: a model that reads "collect wood" in a list tends to answer with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.errors import InvalidInput

SHORT = """\
Crafter: a grid seen from above, you in the centre. A move turns you, and steps if the tile ahead is free. \
do uses the faced tile: gather, drink, hit, eat. Pickaxe needed: wood for stone, coal; stone for iron; iron for diamond. \
Costs: table 2 wood, furnace 4 stone; tools (table in the 3x3 around you): wood 1 wood, stone 1 wood 1 stone, \
iron 1 wood 1 coal 1 iron (plus furnace). Lava kills.
Actions: noop move_left move_right move_up move_down do sleep place_stone place_table place_furnace place_plant \
make_wood_pickaxe make_stone_pickaxe make_iron_pickaxe make_wood_sword make_stone_sword make_iron_sword
Unlocked once each: collect_coal collect_diamond collect_drink collect_iron collect_sapling collect_stone collect_wood \
defeat_skeleton defeat_zombie eat_cow eat_plant make_iron_pickaxe make_iron_sword make_stone_pickaxe make_stone_sword \
make_wood_pickaxe make_wood_sword place_furnace place_plant place_stone place_table wake_up"""

FULL = """\
You play Crafter, a survival game on a grid of 64 x 64 tiles, seen from above. You see 9 tiles across and 7 down, with \
yourself in the middle. The aim is to unlock as many of the 22 achievements as possible before you die.

Actions
- noop: nothing.
- move_left, move_right, move_up, move_down: turn that way, and step if the tile ahead is free. There are no diagonal \
moves. Grass, sand and path are free; stepping into lava is death; everything else blocks.
- do: act on the one tile that you face: gather it, drink it, hit the creature or eat the ripe plant on it. Where you \
face follows from your last move: to use a tile beside you, move towards it first.
- sleep: fall asleep, possible while energy is below 9. Asleep, every action counts as sleep; energy rises by 1 about \
every 11 steps, and you wake when it is 9. Being hurt wakes you too.
- place_stone: costs 1 stone; onto grass, sand, path, water or lava that you face.
- place_table: costs 2 wood; onto grass, sand or path that you face.
- place_furnace: costs 4 stone; onto grass, sand or path that you face.
- place_plant: costs 1 sapling; onto grass that you face.
- make_wood_pickaxe, make_wood_sword: 1 wood each.
- make_stone_pickaxe, make_stone_sword: 1 wood and 1 stone each.
- make_iron_pickaxe, make_iron_sword: 1 wood, 1 coal and 1 iron each.
Making needs a table within the 3x3 tiles around you, diagonals included; iron tools need a furnace within them too. \
An action that is not possible does nothing.

Gathering with do
- tree: 1 wood, and the tree turns into grass. water: +1 drink. grass: a sapling, 1 time in 10.
- stone and coal need a wood pickaxe, iron a stone pickaxe, diamond an iron pickaxe; each gives 1 and turns into path.
You can hold 9 of a kind.

Creatures
- cow: 3 health; when it dies you eat it, +6 food.
- zombie: 5 health, on grass, more of them at night; hits for 2, for 7 when you sleep.
- skeleton: 3 health, in caves; its arrows hit for 2.
- You hit for 1; with a wood sword 2, a stone sword 3, an iron sword 5.
- plant: a placed sapling ripens after about 300 steps if you stay near; cows, zombies and skeletons beside it destroy \
it, so wall it in. Eaten when ripe it gives +4 food; unripe, do has no effect on it.

Body: health, food, drink and energy begin at 9. Food falls by 1 about every 26 steps, drink every 21, energy every 31. \
While food, drink and energy are above 0, health slowly rises; else it falls. At health 0 you die.
Day and night take 300 steps together; night is about steps 150 to 270 of each. Nothing reaches you when stone is on \
all four sides.

Achievements, each unlocked when it happens for the first time
- collect_wood, collect_stone, collect_coal, collect_iron, collect_diamond, collect_drink, collect_sapling: when gained.
- place_table, place_furnace, place_stone, place_plant: when it stands.
- make_wood_pickaxe, make_stone_pickaxe, make_iron_pickaxe, make_wood_sword, make_stone_sword, make_iron_sword: when made.
- eat_cow, eat_plant: when eaten. defeat_zombie, defeat_skeleton: when it dies by your hand.
- wake_up: when you wake because energy has reached 9."""

RULES = {"short": SHORT, "full": FULL}


def rules(level: str) -> str:
    """What a player needs to know, at the level ``short`` or ``full``."""
    if level not in RULES:
        raise InvalidInput(f"the rules come as {' or '.join(RULES)}, not {level!r}")
    return RULES[level]


DIRECTIONS = {(-1, 0): "left", (1, 0): "right", (0, -1): "up", (0, 1): "down"}
VITALS = ("health", "food", "drink", "energy")
NIGHT = 0.5
"""Daylight below this is drawn as darkness."""


def describe(status: Mapping[str, Any]) -> str:
    """The present state in a few lines: body, things held, the faced tile, the view, what is unlocked so far."""
    held = {name: count for name, count in status["inventory"].items() if count and name not in VITALS}
    unlocked = status["achievements"]
    lines = [
        ", ".join(f"{name} {status[name]}" for name in VITALS) + _conditions(status),
        f"You hold: {_listed(held)}",
        f"You face: {_faced(status)}",
        f"You see ({len(status['view'])} rows of {len(status['view'][0])}, top row first, you are player):",
        *(" ".join(row) for row in status["view"]),
        f"Unlocked so far: {', '.join(unlocked) or 'nothing'}",
    ]
    return "\n".join(lines)


def _conditions(status: Mapping[str, Any]) -> str:
    night = "; it is dark" if status["daylight"] < NIGHT else ""
    return night + ("; you are asleep" if status["sleeping"] else "")


def _listed(held: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in held.items()) or "nothing"


def _faced(status: Mapping[str, Any]) -> str:
    dx, dy = status["facing"]
    return f"{status['faces']} ({DIRECTIONS[dx, dy]})"
