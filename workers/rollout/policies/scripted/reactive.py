"""The reactive player: decides from one frame and nothing else, so that whoever sees only frames can learn all of it.

What would need memory is read from the inventory instead. A pickaxe in hand says that it was made. A sapling is kept until
the player has slept, and planted on waking, so holding one says that there was no sleep yet.
"""

from __future__ import annotations

from workers.rollout.policies.scripted import kinds, reactive_needs, reactive_shelter
from workers.rollout.policies.scripted.hands import Decision
from workers.rollout.policies.scripted.needs import COST, FURNACE_STONE, GOALS, IRON_TOOLS, STONE_TOOLS, TABLE_WOOD, WOOD_TOOLS
from workers.rollout.policies.scripted.reactive_view import (
    AROUND,
    COW,
    DANGERS,
    DIGGABLE,
    DOWN,
    FAR,
    FREE,
    LEFT,
    ME,
    MOVES,
    NEAR_3X3,
    RIGHT,
    SKELETON,
    UP,
    WIDTH,
    ZOMBIE,
    Reach,
    entry_costs,
    flood,
    found,
    grid,
)
from workers.rollout.policies.scripted.sight import Glance

FOES = (ZOMBIE, SKELETON)
TELL = {
    **GOALS,
    COW: GOALS["cow"],
    ZOMBIE: GOALS["zombie"],
    SKELETON: GOALS["skeleton"],
}
"""A kind that is used, and what for."""


class Reactive:
    """Keeps nothing: every decision is a function of one glance."""

    __slots__ = ()

    def decide(self, glance: Glance) -> Decision:
        """The next action and its goal."""
        return _Turn(glance).decide()


class _Turn:
    """One decision."""

    def __init__(self, glance: Glance) -> None:
        self.glance = glance
        self.have = glance.items.get
        self.codes = grid(glance)
        dx, dy = glance.facing
        self.ahead = dy * WIDTH + dx
        """The step to the faced cell; 0 for a sleeper."""
        self.costs = entry_costs(glance.items)
        self._reach: Reach | None = None

    @property
    def reach(self) -> Reach:
        """Ways from here, worked out when first asked for."""
        if self._reach is None:
            self._reach = flood(self.codes, self.costs, self.ahead)
        return self._reach

    def decide(self) -> Decision:
        """The first thing on the list that there is reason to do."""
        glance = self.glance
        if glance.sleeping:
            if glance.energy < 9:
                return "sleep", "sleep until rested"
            if self.have("sapling"):
                return "place_plant", "place a sapling"
        return (
            self.fight()
            or self.make()
            or self.place()
            or self.rest()
            or self.close_door()
            or self.nap()
            or self.nearest(reactive_needs.urgent(glance))
            or self.take_cover()
            or self.gather_sapling()
            or self.craft()
            or self.nearest(reactive_needs.wants(glance, table=self.sees(kinds.TABLE)))
            or self.explore()
        )

    # Reflexes.

    def fight(self) -> Decision | None:
        """Hit what stands beside the player and would hit first."""
        foes = [step for step in (self.ahead, *AROUND) if self.codes[ME + step] in FOES]
        if not foes:
            return None
        return self.use(foes[0]), TELL[self.codes[ME + foes[0]]]

    def make(self) -> Decision | None:
        """Make whatever can be made here."""
        if not self.near(kinds.TABLE):
            return None
        tools = [*WOOD_TOOLS, *STONE_TOOLS, *(IRON_TOOLS if self.near(kinds.FURNACE) else ())]
        for tool in tools:
            if self.affordable(tool):
                if tool == "stone_sword" and self.have("stone", 0) >= 2 and self.placeable(self.ahead):
                    return "place_stone", "place a stone"
                return f"make_{tool}", f"make {_a(tool)}"
        return None

    def place(self) -> Decision | None:
        """Place a furnace by the table."""
        fits = self.near(kinds.TABLE) and not self.near(kinds.FURNACE)
        due = not self.sees(kinds.FURNACE) or self.iron_ready()
        if self.have("stone_pickaxe") and due and fits and self.have("stone", 0) >= FURNACE_STONE:
            return self.put("place_furnace", "place a furnace", beside=kinds.TABLE)
        if self.have("stone") and self.glance.drink == 9 and self.codes[ME + self.ahead] == kinds.WATER:
            return "place_stone", "place a stone"
        return None

    def rest(self) -> Decision | None:
        """Sleep in a closed room for as long as that is better than going out."""
        glance = self.glance
        tired = glance.dark or glance.energy <= 6 or glance.health <= 5
        if glance.energy < 9 and tired and reactive_shelter.sealed(self.codes):
            return "sleep", "sleep in the shelter"
        return None

    def wants_cover(self) -> bool:
        """True when it is time to sleep or heal."""
        glance = self.glance
        if glance.dark:
            return glance.energy <= 7 or (glance.health <= 5 and glance.energy < 9)
        return glance.energy <= 3 or (glance.health <= 3 and glance.energy < 9)

    def close_door(self) -> Decision | None:
        """Put a stone ahead if that closes the player in."""
        able = self.wants_cover() and self.have("stone") and self.placeable(self.ahead)
        if able and reactive_shelter.sealed(self.codes, ME + self.ahead):
            return "place_stone", "make a shelter"
        return None

    def nap(self) -> Decision | None:
        """Sleep a little with a sapling in hand, facing grass, to plant it on waking."""
        glance = self.glance
        if not self.have("sapling") or glance.energy > 8 or glance.dark or glance.health < 5 or self.watched():
            return None
        if self.codes[ME + self.ahead] == kinds.GRASS:
            return "sleep", "take a nap"
        return self.face_grass("find grass to plant on")

    def take_cover(self) -> Decision | None:
        """Make a shelter, or sleep where it must be."""
        if not self.wants_cover():
            return None
        if self.have("wood_pickaxe"):
            shelter = reactive_shelter.find(self.codes, self.reach, self.glance.items, limit=16)
            if shelter:
                return self.towards(self.way_in(*shelter)), "make a shelter"
        if self.glance.energy <= 1 and not self.watched():
            return "sleep", "sleep where I stand"
        return None

    def way_in(self, outer: int, way: int) -> int:
        """The step to make next towards a shelter."""
        if outer == ME:
            return -way
        if outer - way == ME:
            return way
        return self.reach.path(outer)[0] - ME

    def gather_sapling(self) -> Decision | None:
        """Search the grass ahead for a sapling, before there is any wood."""
        if self.have("sapling") or self.have("wood") or self.have("wood_pickaxe") or self.watched():
            return None
        if self.codes[ME + self.ahead] == kinds.GRASS:
            return "do", "search the grass for a sapling"
        return self.face_grass("find grass to search")

    # Work.

    def craft(self) -> Decision | None:
        """Go to a table, or build one, when there is something to make."""
        tools = self.ready_tools()
        if not tools:
            return None
        goal = f"make {_a(tools[0])}"
        iron = tools[0] in IRON_TOOLS
        stocked = self.have("stone", 0) >= FURNACE_STONE
        spots = self.spots(kinds.TABLE, kinds.FURNACE) if iron else self.spots(kinds.TABLE)
        if not spots and iron and stocked:
            spots = self.spots(kinds.TABLE)
        reach = self.reach
        ways = [(reach.cost[cell], cell) for cell in spots if reach.cost[cell] < FAR]
        if ways:
            _, cell = min(ways)
            path = reach.path(cell)
            if path and self.reach.keeps_sight(path, cell):
                return self.towards(path[0] - ME), f"go to the table to {goal}"
        if self.have("wood", 0) >= TABLE_WOOD + 1 and (stocked or not iron) and not self.cornered():
            return self.put("place_table", f"place a table to {goal}")
        return None

    def ready_tools(self) -> list[str]:
        """Tools of the lowest level that are missing and that it is time to make."""
        for tools in (WOOD_TOOLS, STONE_TOOLS, IRON_TOOLS):
            ready = [tool for tool in tools if self.affordable(tool)]
            if ready and self.enough(tools):
                return ready
        return []

    def enough(self, tools: tuple[str, ...]) -> bool:
        """True when it is time to go to the table for these tools."""
        items = self.glance.items
        wood, stone = self.have("wood", 0), self.have("stone", 0)
        table = 0 if self.sees(kinds.TABLE) else TABLE_WOOD
        if tools == WOOD_TOOLS:
            return wood >= table + reactive_needs.missing(items, tools) and not self.have("stone")
        if tools == STONE_TOOLS:
            return wood >= table + reactive_needs.missing(items, tools) and stone >= reactive_needs.stone_wanted(items)
        more = self.have("iron", 0) < reactive_needs.missing(items, IRON_TOOLS) and self.sees(kinds.IRON)
        return self.iron_ready() and not more

    def iron_ready(self) -> bool:
        """True when an iron tool is missing and its materials are here."""
        return any(self.affordable(tool) for tool in IRON_TOOLS)

    def nearest(self, wants: dict[int, tuple[int, int]]) -> Decision | None:
        """Go to the nearest of the wanted kinds, and use it."""
        if not wants:
            return None
        codes, reach = self.codes, self.reach
        ways = []
        for target, kind in enumerate(codes):
            if kind in wants:
                handicap, limit = wants[kind]
                steps, cell = reach.beside(target)
                if steps <= limit and steps < FAR:
                    ways.append((steps + handicap, target - ME != self.ahead, target, cell))
        for _, _, target, cell in sorted(ways):
            path = reach.path(cell)
            if reach.keeps_sight(path, target):
                return (self.towards(path[0] - ME) if path else self.use(target - ME)), TELL[codes[target]]
        return None

    def explore(self) -> Decision:
        """Go on ahead; where that is blocked, to a side; back only if there is no other way."""
        best = None
        for step, edge in EDGES.items():
            ways = [(self.reach.cost[cell], cell) for cell in edge if self.reach.cost[cell] < FAR and cell != ME]
            if not ways:
                continue
            steps, cell = min(ways)
            penalty = 0 if step == self.ahead else 20 if step == -self.ahead else 4
            if best is None or steps + penalty < best[0]:
                best = (steps + penalty, cell)
        if best is None:
            return "noop", "wait"
        return self.towards(self.reach.path(best[1])[0] - ME), "explore"

    # Hands.

    def towards(self, step: int) -> str:
        """The action that brings the player nearer to entering a neighbouring cell. Never ask it for lava."""
        code = self.codes[ME + step]
        if code in FREE or step != self.ahead:
            return MOVES[step]
        return "place_stone" if code == kinds.WATER else "do"

    def use(self, step: int) -> str:
        """The action that uses a neighbouring cell, or turns to it first."""
        return "do" if step == self.ahead else MOVES[step]

    def placeable(self, step: int) -> bool:
        """True when a stone can be put there."""
        return bool(step) and (self.codes[ME + step] in FREE or self.codes[ME + step] in (kinds.WATER, kinds.LAVA))

    def sees(self, kind: int) -> bool:
        """True when this kind is in view."""
        return kind in self.codes

    def watched(self) -> bool:
        """True when a foe or an arrow is in view."""
        return not DANGERS.isdisjoint(self.codes)

    def cornered(self) -> bool:
        """True on the first row and column of the world, where nothing can be made."""
        return kinds.OUTSIDE in (self.codes[ME + LEFT], self.codes[ME + UP])

    def near(self, kind: int) -> bool:
        """True when this kind is within the 3x3 cells around the player."""
        return any(self.codes[ME + step] == kind for step in NEAR_3X3) and not self.cornered()

    def affordable(self, tool: str) -> bool:
        """True when the player lacks the tool and has what it costs."""
        return not self.have(tool) and all(self.have(item, 0) >= count for item, count in COST[tool].items())

    def spots(self, *wanted: int) -> set[int]:
        """Cells from which all these kinds are within the 3x3 cells around."""
        return set.intersection(*({cell + step for cell in found(self.codes, kind) for step in NEAR_3X3} for kind in wanted))

    def face_grass(self, goal: str) -> Decision | None:
        """Make a move after which grass is ahead."""
        for step in AROUND:
            if self.codes[ME + step] in FREE and self.codes[ME + 2 * step] == kinds.GRASS:
                return MOVES[step], goal
        return None

    def put(self, action: str, goal: str, beside: int | None = None) -> Decision | None:
        """Place something on the faced cell, or make a faced cell for it, without leaving ``beside``."""
        codes = self.codes
        faced = codes[ME + self.ahead]
        if self.ahead and faced in FREE:
            return action, goal
        if faced in DIGGABLE and self.costs[faced]:
            return "do", goal
        for step in AROUND:
            beyond = ME + 2 * step
            if codes[ME + step] in DIGGABLE and self.costs[codes[ME + step]]:
                return MOVES[step], goal
            stays = beside is None or any(codes[ME + step + near] == beside for near in NEAR_3X3)
            if codes[ME + step] in FREE and codes[beyond] in FREE and stays:
                return MOVES[step], goal
        return None


EDGES = {
    LEFT: [row * WIDTH + 1 for row in range(1, 8)],
    RIGHT: [row * WIDTH + 9 for row in range(1, 8)],
    UP: [WIDTH + column for column in range(1, 10)],
    DOWN: [7 * WIDTH + column for column in range(1, 10)],
}


def _a(tool: str) -> str:
    words = tool.replace("_", " ")
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
