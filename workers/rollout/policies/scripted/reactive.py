"""The reactive player: decides from one frame and nothing else, so that whoever sees only frames can learn all of it.

What would need memory is read from the inventory instead. A tool in hand says that it was made. Saplings are looked for only
before there is wood. A sapling is kept until the player has slept, and planted on waking, so holding one says that there was
no nap yet. The way it faces is what it remembers of where it was going.
"""

from __future__ import annotations

from workers.rollout.policies.scripted import kinds, needs, reactive_needs, reactive_shelter
from workers.rollout.policies.scripted.hands import Decision
from workers.rollout.policies.scripted.needs import FURNACE_STONE, IRON_TOOLS, STONE_TOOLS, TABLE_WOOD, WOOD_TOOLS
from workers.rollout.policies.scripted.reactive_hands import ReactiveHands
from workers.rollout.policies.scripted.reactive_needs import GOAL_OF
from workers.rollout.policies.scripted.reactive_view import (
    AROUND,
    COLUMNS,
    DOWN,
    FAR,
    FOES,
    LEFT,
    ME,
    RIGHT,
    ROWS,
    UP,
    WIDTH,
    stays_in_view,
)
from workers.rollout.policies.scripted.sight import Glance

RESTED = 9
"""Energy at which a sleeper wakes."""
COVER_WITHIN = 16
"""Actions that a shelter may take to make."""

ASIDE, BACK = 4, 20
"""Steps by which going on ahead is preferred to a turn, and to turning back."""
HINT = 0.6
"""Steps that one tile of a promising kind is worth, on the side where it lies."""
RIGHT_OF = {UP: RIGHT, RIGHT: DOWN, DOWN: LEFT, LEFT: UP}


def _cells(rows: range, columns: range) -> tuple[int, ...]:
    return tuple(row * WIDTH + column for row in rows for column in columns)


_ALL_ROWS, _ALL_COLUMNS = range(1, ROWS + 1), range(1, COLUMNS + 1)
EDGES = {
    LEFT: _cells(_ALL_ROWS, range(1, 2)),
    RIGHT: _cells(_ALL_ROWS, range(COLUMNS, COLUMNS + 1)),
    UP: _cells(range(1, 2), _ALL_COLUMNS),
    DOWN: _cells(range(ROWS, ROWS + 1), _ALL_COLUMNS),
}
"""The last cells in view on each side."""
SIDES = {
    LEFT: _cells(_ALL_ROWS, range(1, 4)),
    RIGHT: _cells(_ALL_ROWS, range(COLUMNS - 2, COLUMNS + 1)),
    UP: _cells(range(1, 3), _ALL_COLUMNS),
    DOWN: _cells(range(ROWS - 1, ROWS + 1), _ALL_COLUMNS),
}
"""The cells that tell what lies on each side: three columns, or two rows."""


class Reactive:
    """Keeps nothing: every decision is a function of one glance."""

    __slots__ = ()

    def decide(self, glance: Glance) -> Decision:
        """The next action and its goal."""
        return _Turn(glance).decide()


class _Turn(ReactiveHands):
    """One decision."""

    def decide(self) -> Decision:
        """The first thing on the list that there is reason to do."""
        return (
            self.sleep_on()
            or self.fight()
            or self.make()
            or self.place()
            or self.rest()
            or self.nap()
            or self.nearest(reactive_needs.urgent(self.glance))
            or self.take_cover()
            or self.gather_sapling()
            or self.craft()
            or self.nearest(reactive_needs.wants(self.glance, table=self.sees(kinds.TABLE)))
            or self.explore()
        )

    # Reflexes: no way is looked for.

    def sleep_on(self) -> Decision | None:
        """Stay asleep until rested; then the action counts again, and a sapling is planted."""
        if not self.glance.sleeping:
            return None
        if self.glance.energy < RESTED:
            return "sleep", "sleep until rested"
        return ("place_plant", "place a sapling") if self.have("sapling") else None

    def fight(self) -> Decision | None:
        """Hit what stands beside the player and would hit first."""
        for step in (self.ahead, *AROUND):
            if self.codes[ME + step] in FOES:
                return self.use(step), GOAL_OF[self.codes[ME + step]]
        return None

    def make(self) -> Decision | None:
        """Make whatever can be made here. Between the two stone tools a stone is placed, for that state comes but once."""
        if not self.near(kinds.TABLE):
            return None
        for tool in (*WOOD_TOOLS, *STONE_TOOLS, *(IRON_TOOLS if self.near(kinds.FURNACE) else ())):
            if self.affordable(tool):
                if tool == "stone_sword" and self.have("stone", 0) > 1 and self.can_close():
                    return "place_stone", "place a stone"
                return f"make_{tool}", f"make {_a(tool)}"
        return None

    def place(self) -> Decision | None:
        """Place a furnace by the table, and a stone on the water that the player has drunk its fill of."""
        iron_pickaxe = self.have("iron_pickaxe")
        due = self.iron_ready() or not (iron_pickaxe or self.sees(kinds.FURNACE))
        fits = self.near(kinds.TABLE) and not self.near(kinds.FURNACE)
        if due and fits and self.have("stone_pickaxe") and self.have("stone", 0) >= FURNACE_STONE:
            return self.put("place_furnace", "place a furnace", beside=kinds.TABLE)
        if self.faced == kinds.WATER and self.glance.drink == reactive_needs.FULL and self.can_close() and not iron_pickaxe:
            return "place_stone", "place a stone"
        return None

    # Rest.

    def rest(self) -> Decision | None:
        """Sleep or wait in a closed room for as long as that is better than going out; close it if that takes one stone."""
        glance, hurt = self.glance, self.hurt(6)
        if (glance.dark or glance.energy <= 6 or hurt) and reactive_shelter.sealed(self.codes):
            if glance.energy < RESTED:
                return "sleep", "sleep in the shelter"
            return ("noop", "rest in the shelter") if hurt else None
        if self.wants_cover() and self.can_close() and reactive_shelter.sealed(self.codes, door=ME + self.ahead):
            return "place_stone", "make a shelter"
        return None

    def nap(self) -> Decision | None:
        """Sleep a little with a sapling in hand, facing grass, to plant it on waking."""
        glance = self.glance
        if not self.have("sapling") or glance.energy == RESTED or glance.dark or glance.health < 5 or self.watched():
            return None
        return ("sleep", "take a nap") if self.faced == kinds.GRASS else self.face_grass("find grass to plant on")

    def wants_cover(self) -> bool:
        """True when it is time to sleep or heal: earlier in the dark."""
        tired, hurt = (7, 6) if self.glance.dark else (3, 3)
        return self.glance.energy <= tired or self.hurt(hurt)

    def hurt(self, health: int) -> bool:
        """True when health is no better than this, and would heal with rest."""
        return self.glance.health <= health and min(self.glance.food, self.glance.drink) > 0

    def take_cover(self) -> Decision | None:
        """Make a shelter, or sleep where it must be."""
        if not self.wants_cover():
            return None
        if self.have("wood_pickaxe"):
            stones = self.have("stone", 0)
            step = reactive_shelter.next_step(self.codes, self.reach, self.ahead, stones, limit=COVER_WITHIN)
            if step:
                return "place_stone" if step == reactive_shelter.CLOSE else self.towards(step), "make a shelter"
        if self.glance.energy <= 1 and not self.watched():
            return "sleep", "sleep where I stand"
        return None

    # Work.

    def gather_sapling(self) -> Decision | None:
        """Search the grass ahead for a sapling, as long as there is neither wood nor what is made of it."""
        if self.have("sapling") or self.have("wood") or self.have("wood_pickaxe") or self.watched():
            return None
        if self.faced == kinds.GRASS:
            return "do", "search the grass for a sapling"
        return self.face_grass("find grass to search")

    def craft(self) -> Decision | None:
        """Go to a table in view, or place one, when there is something to make."""
        tools = self.ready_tools()
        if not tools:
            return None
        goal, iron = f"make {_a(tools[0])}", tools[0] in IRON_TOOLS
        stocked = not iron or self.have("stone", 0) >= FURNACE_STONE
        spots = self.spots(kinds.TABLE, kinds.FURNACE) if iron else self.spots(kinds.TABLE)
        if iron and not spots and stocked:
            spots = self.spots(kinds.TABLE)  # a furnace can be placed there
        cost = self.reach.cost
        ways = [(cost[cell], cell) for cell in spots if 0 < cost[cell] < FAR]
        if ways:
            cell = min(ways)[1]
            path = self.reach.path(cell)
            if stays_in_view(path, cell):
                return self.towards(path[0] - ME), f"go to the table to {goal}"
        if self.have("wood", 0) > TABLE_WOOD and stocked and not self.cornered():
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
        count = needs.missing(self.glance, tools)
        if tools == IRON_TOOLS:
            return self.have("iron", 0) >= count or not self.sees(kinds.IRON)
        wood = count + (0 if self.sees(kinds.TABLE) else TABLE_WOOD)
        stone = self.have("stone", 0)
        stocked = stone >= reactive_needs.stone_wanted(self.glance) if tools == STONE_TOOLS else not stone
        return self.have("wood", 0) >= wood and stocked

    def iron_ready(self) -> bool:
        """True when an iron tool is missing and its materials are here."""
        return any(self.affordable(tool) for tool in IRON_TOOLS)

    def nearest(self, wants: reactive_needs.Wants) -> Decision | None:
        """Go to the nearest of the wanted kinds, and use it. Of equally near ones, to the one ahead."""
        ways = []
        for target, kind in enumerate(self.codes):
            if kind in wants:
                handicap, limit = wants[kind]
                steps, cell = self.reach.beside(target)
                if steps <= limit and steps < FAR:
                    ways.append((steps + handicap, target != ME + self.ahead, target, cell))
        for _, _, target, cell in sorted(ways):
            path = self.reach.path(cell)
            if stays_in_view(path, target):
                action = self.towards(path[0] - ME) if path else self.use(target - ME)
                return action, GOAL_OF[self.codes[target]]
        return None

    def explore(self) -> Decision:
        """Go on ahead, or to a side if that is nearer or promises more; back only if there is no other way.

        Energy tells right from left, so that the same place is not left in the same way for ever.
        """
        hints = reactive_needs.hints(self.glance)
        cost, codes = self.reach.cost, self.codes
        turn = RIGHT_OF.get(self.ahead, UP) * (1 if self.glance.energy % 2 else -1)
        best: tuple[float, int] | None = None
        for step, edge in EDGES.items():
            steps, cell = min([(cost[cell], cell) for cell in edge])
            if steps == FAR or cell == ME:
                continue
            price = 0 if step == self.ahead else BACK if step == -self.ahead else ASIDE - (step == turn)
            worth = steps + price - HINT * sum([codes[there] in hints for there in SIDES[step]])
            if best is None or worth < best[0]:
                best = worth, cell
        if best is None:
            return "noop", "wait"
        return self.towards(self.reach.path(best[1])[0] - ME), "explore"


def _a(tool: str) -> str:
    words = tool.replace("_", " ")
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
