"""What the player does next, and why: reflexes first, then the body's needs, then work, then exploring.

A plan is a way and what to do at its end. It is kept until it is done, stops making sense, or is a few steps old,
because finding one costs far more than following it.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from workers.rollout.policies.scripted import kinds, needs
from workers.rollout.policies.scripted.cover import Cover, Shelter
from workers.rollout.policies.scripted.farm import FENCE_STONES, Farm
from workers.rollout.policies.scripted.hands import Decision
from workers.rollout.policies.scripted.memory import Memory
from workers.rollout.policies.scripted.paths import Kind, best_lookout
from workers.rollout.policies.scripted.plans import Plan
from workers.rollout.policies.scripted.sight import Sight

CLOSE, WIDE = 20, 60
"""Steps: as far as a second table is not worth its wood, and as far as anything is looked for."""
FARM_FROM = 400
"""Steps after which a plant of one's own goes before other work, where there is unknown ground."""
AT_HAND = 12
"""Distance within which a plant is fenced in passing."""
SEARCH_UNTIL = 40
"""Steps after which a first sapling waits until there are stone tools: luck may be long in coming."""


class Goals:
    """Decides one action at a time. Its whole state is the plan and the shelter that it is making."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.shelter: Shelter | None = None

    def decide(self, sight: Sight, memory: Memory) -> Decision:
        """The next action and its goal."""
        turn = _Turn(sight, memory, self.plan, self.shelter)
        decision = turn.decide()
        self.plan, self.shelter = turn.plan, turn.shelter
        return decision

    def copy(self) -> Goals:
        """Another one with the same plan."""
        other = Goals()
        other.plan = replace(self.plan, path=list(self.plan.path)) if self.plan else None
        other.shelter = self.shelter
        return other

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {"plan": asdict(self.plan) if self.plan else None, "shelter": self.shelter}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Goals:
        """The inverse of ``to_json``."""
        goals = cls()
        goals.plan = Plan(**value["plan"]) if value["plan"] else None
        goals.shelter = tuple(value["shelter"]) if value["shelter"] else None
        return goals


class _Turn(Farm, Cover):
    """One decision: what is seen now, beside what is kept between decisions."""

    def __init__(self, sight: Sight, memory: Memory, plan: Plan | None, shelter: Shelter | None) -> None:
        super().__init__(sight, memory, plan)
        self.shelter = shelter

    def decide(self) -> Decision:
        """The first thing on the list that there is reason to do."""
        if self.sight.sleeping and self.sight.energy < 9:
            return "sleep", "sleep until rested"
        return (
            self.fight()
            or self.make()
            or self.place()
            or self.rest()
            or self.make_shelter()
            or self.nap()
            or self.follow()
            or self.survive()
            or self.take_cover()
            or self.first_sapling()
            or self.craft()
            or (self.farm_now() and self.farm())
            or self.work()
            or self.explore()
            or self.farm()
            or self.hide()
            or ("noop", "wait")
        )

    def farm_now(self) -> bool:
        """True when the plant goes before other work: it is at hand and open, or it is late and the rest is not in sight."""
        if self.sight.dark or "eat_plant" in self.sight.unlocked:
            return False
        plant, stones = self.own_plant(), self.have("stone", 0)
        if self.late():
            return plant is not None or stones >= FENCE_STONES
        if plant is None or "place_furnace" not in self.sight.unlocked:
            return False
        return self.distance(plant) <= AT_HAND and 0 < len(self.open_sides(plant)) <= stones

    def late(self) -> bool:
        """True when a plant is a surer thing than what may lie on unknown ground."""
        return self.memory.steps >= FARM_FROM and kinds.UNKNOWN in self.memory.map

    # Reflexes: no way is looked for.

    def make(self) -> Decision | None:
        """Make whatever can be made here."""
        if not self.near(kinds.TABLE):
            return None
        tools = [*needs.WOOD_TOOLS, *needs.STONE_TOOLS, *(needs.IRON_TOOLS if self.near(kinds.FURNACE) else ())]
        for tool in tools:
            if needs.affordable(self.sight, tool):
                return f"make_{tool}", f"make {_a(tool)}"
        return None

    def place(self) -> Decision | None:
        """Place what is due where the player stands: a sapling, a first stone, a furnace by the table."""
        first = "place_plant" not in self.sight.unlocked
        if first and self.have("sapling") and self.open(self.faced) and self.memory.map[self.faced] == kinds.GRASS:
            return "place_plant", "place a sapling"
        can_close = self.open(self.faced) or self.memory.map[self.faced] == kinds.WATER
        if "place_stone" not in self.sight.unlocked and self.have("stone") and can_close:
            return "place_stone", "place a stone"
        due = "place_furnace" not in self.sight.unlocked or self.iron_ready()
        fits = self.near(kinds.TABLE) and not self.near(kinds.FURNACE)
        if due and fits and self.have("stone", 0) >= needs.FURNACE_STONE:
            return self.put("place_furnace", "place a furnace", beside=kinds.TABLE)
        return None

    # Needs and work: a way is looked for, and kept as the plan.

    def survive(self) -> Decision | None:
        """Drink or eat before anything else when it is high time."""
        wants: dict[Kind, int] = {}
        if self.sight.drink <= needs.THIRSTY:
            wants[kinds.WATER] = 0
        if self.sight.food <= needs.HUNGRY:
            wants["cow"] = wants[kinds.RIPE] = 0
        if not wants:
            return None
        found = self.nearest(wants, WIDE) or (self.last_cow() if "cow" in wants else None)
        return found or (None if self.sight.dark else self.explore())

    def last_cow(self) -> Decision | None:
        """Go where a cow was last seen."""
        reach = self.reach(WIDE, goals=self.memory.cows)
        if reach.goal is None or not reach.path(reach.goal):
            return None
        return self.start(Plan("look for a cow", reach.path(reach.goal)))

    def first_sapling(self) -> Decision | None:
        """Search the grass for a sapling until one was placed."""
        if "place_plant" in self.sight.unlocked or (self.memory.steps > SEARCH_UNTIL and not self.have("stone_sword")):
            return None
        return self.search_grass()

    def craft(self) -> Decision | None:
        """Go to a table, or build one, when there is something to make."""
        tools = self.ready_tools()
        if not tools:
            return None
        goal = f"make {_a(tools[0])}"
        iron = tools[0] in needs.IRON_TOOLS
        stocked = self.have("stone", 0) >= needs.FURNACE_STONE
        spots = self.spots(kinds.TABLE, kinds.FURNACE) if iron else self.spots(kinds.TABLE)
        if not spots and stocked:
            spots = self.spots(kinds.TABLE)  # a furnace can be placed there
        rich = self.have("wood", 0) >= needs.TABLE_WOOD + len(tools) and (stocked or not iron)
        reach = self.reach(CLOSE if rich else WIDE, goals=spots) if spots else None
        if reach and reach.goal is not None and (path := reach.path(reach.goal)):
            return self.start(Plan(f"go to the table to {goal}", path))
        return self.put("place_table", f"place a table to {goal}") if rich else None

    def work(self) -> Decision | None:
        """Go to the nearest thing that is wanted."""
        return self.nearest(needs.wants(self.sight), WIDE)

    def explore(self) -> Decision | None:
        """Go where most unknown ground comes into sight; not far from a plant that grows."""
        if kinds.UNKNOWN not in self.memory.map:
            return None
        reach = self.reach(WIDE)
        if self.late() and self.growing():
            reach.cells = [cell for cell in reach.cells if self.grows_with(cell)]
        lookout = best_lookout(self.memory, reach, needs.hints(self.sight))
        return None if lookout is None else self.start(Plan("explore", reach.path(lookout)))

    # Tools of the trade.

    def ready_tools(self) -> list[str]:
        """Tools of the lowest level that are missing and that it is time to make."""
        for tools in (needs.WOOD_TOOLS, needs.STONE_TOOLS, needs.IRON_TOOLS):
            ready = [tool for tool in tools if needs.affordable(self.sight, tool)]
            if ready and self.enough(tools):
                return ready
        return []

    def enough(self, tools: tuple[str, ...]) -> bool:
        """True when it is time to go to the table for these tools."""
        wood, stone = self.have("wood", 0), self.have("stone", 0)
        count = needs.missing(self.sight, tools)
        if tools == needs.WOOD_TOOLS:
            return wood >= count
        if tools == needs.STONE_TOOLS:
            return wood >= count and stone >= needs.stone_wanted(self.sight) - 1
        return self.iron_ready()

    def iron_ready(self) -> bool:
        """True when an iron tool is missing and its materials are here."""
        return any(needs.affordable(self.sight, tool) for tool in needs.IRON_TOOLS)


def _a(tool: str) -> str:
    words = tool.replace("_", " ")
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
