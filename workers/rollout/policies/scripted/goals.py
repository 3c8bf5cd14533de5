"""What the player does next, and why: reflexes first, then the body's needs, then work, then exploring.

A plan is a way and what to do at its end. It is kept until it is done, stops making sense, or is a few steps old,
because finding one costs far more than following it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from workers.rollout.policies.scripted import kinds, needs, shelter
from workers.rollout.policies.scripted.hands import FOES, MOVE_BY, Decision, Hands
from workers.rollout.policies.scripted.memory import Memory
from workers.rollout.policies.scripted.paths import AROUND, Kind, best_lookout, flood
from workers.rollout.policies.scripted.sight import Sight

CLOSE, WIDE = 20, 60
"""Steps: as far as a second table is not worth its wood, and as far as anything is looked for."""
PLAN_STEPS = 8
"""A plan older than this is made anew, for better things may have come into sight."""

TIRED_AND_HURT = {False: (2, 3), True: (8, 5)}
"""Energy and health at or below which the player takes cover, by day and in the dark."""


@dataclass(slots=True)
class Plan:
    """A way, and what to use at its end."""

    goal: str
    path: list[int] = field(default_factory=list)
    target: int | None = None
    """The cell to use from the end of the way; None when arriving is all."""
    kind: Kind | None = None
    """What ``target`` must still be for the plan to make sense."""
    since: int = 0


class Goals:
    """Decides one action at a time. Its whole state is the plan and the shelter that it is making."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.shelter: tuple[int, int] | None = None
        """(door cell, direction inwards) of the shelter being made."""

    def decide(self, sight: Sight, memory: Memory) -> Decision:
        """The next action and its goal."""
        return _Turn(self, sight, memory).decide()

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


class _Turn(Hands):
    """One decision: what is seen now, beside what is kept between decisions."""

    sight: Sight

    def __init__(self, goals: Goals, sight: Sight, memory: Memory) -> None:
        super().__init__(sight, memory)
        self.goals = goals

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
            or self.gather_sapling()
            or self.craft()
            or self.work()
            or self.explore()
        )

    # Reflexes: no way is looked for.

    def fight(self) -> Decision | None:
        """Hit what stands beside the player and would hit first."""
        beside = [self.memory.at + step for step in AROUND]
        foes = [cell for cell in beside if self.memory.creatures.get(cell) in FOES]
        if not foes:
            return None
        cell = self.faced if self.faced in foes else foes[0]
        return self.use(cell), f"defeat the {self.memory.creatures[cell]}"

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
        if self.have("sapling") and self.open(self.faced) and self.memory.map[self.faced] == kinds.GRASS:
            return "place_plant", "place a sapling"
        can_close = self.open(self.faced) or self.memory.map[self.faced] == kinds.WATER
        if "place_stone" not in self.sight.unlocked and self.have("stone") and can_close:
            return "place_stone", "place a stone"
        due = "place_furnace" not in self.sight.unlocked or self.iron_ready()
        fits = self.near(kinds.TABLE) and not self.near(kinds.FURNACE)
        if due and fits and self.have("stone", 0) >= needs.FURNACE_STONE:
            return self.put("place_furnace", "place a furnace", beside=kinds.TABLE)
        return None

    def rest(self) -> Decision | None:
        """Sleep or wait in a closed room for as long as that is better than going out."""
        sight = self.sight
        if not shelter.sealed(self.memory):
            return None
        if sight.energy < 9 and (sight.dark or sight.energy <= 6 or "wake_up" not in sight.unlocked or sight.health < 6):
            return "sleep", "sleep in the shelter"
        if sight.health <= 5 and min(sight.food, sight.drink) > 1:
            return "noop", "rest in the shelter"
        return None

    def nap(self) -> Decision | None:
        """Sleep once in bright daylight with nobody in sight, only to wake up."""
        sight = self.sight
        if "wake_up" in sight.unlocked or not 7 <= sight.energy <= 8 or not sight.bright or sight.health < 8:
            return None
        return None if self.watched() else ("sleep", "take a nap")

    # Shelter.

    def make_shelter(self) -> Decision | None:
        """Go on making the shelter that was begun: in, further in, back, close the door."""
        if self.goals.shelter is None:
            return None
        door, step = self.goals.shelter
        outer, inner, at = door + step, door + 2 * step, self.memory.at
        goal = "make a shelter"
        if at in (door, inner):
            return self.towards(outer), goal
        if at == outer and self.faced == inner:
            return self.towards(inner), goal
        if at == outer and self.faced == door and self.have("stone") and self.open(door):
            self.goals.shelter = None
            return "place_stone", goal
        self.goals.shelter = None
        return None

    def take_cover(self) -> Decision | None:
        """Begin a shelter when tired in the dark, worn out or badly hurt."""
        sight = self.sight
        energy, health = TIRED_AND_HURT[sight.dark]
        if sight.energy > energy and sight.health > health:
            return None
        if self.have("wood_pickaxe"):
            reach = flood(self.memory, self.costs, limit=CLOSE)
            found = shelter.find(self.memory, reach, stones=self.have("stone", 0))
            if found:
                path = reach.path(found[0])
                if not path:
                    self.goals.shelter = found
                    return self.make_shelter()
                return self.start(Plan("find shelter", path))
        if sight.energy <= 1 and not self.watched():
            return "sleep", "sleep where I stand"
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
        reach = flood(self.memory, self.costs, limit=WIDE, goals=self.memory.cows)
        if reach.goal is None or not reach.path(reach.goal):
            return None
        return self.start(Plan("look for a cow", reach.path(reach.goal)))

    def gather_sapling(self) -> Decision | None:
        """Search the grass ahead for a sapling, until one was placed."""
        if "place_plant" in self.sight.unlocked or self.have("sapling") or self.watched():
            return None
        ground = self.memory.map
        if self.open(self.faced) and ground[self.faced] == kinds.GRASS:
            return "do", "search the grass for a sapling"
        for step in AROUND:
            ahead, beyond = self.memory.at + step, self.memory.at + 2 * step
            if self.open(ahead) and self.open(beyond) and ground[beyond] == kinds.GRASS:
                return MOVE_BY[step], "find grass to search"
        return None

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
        reach = flood(self.memory, self.costs, limit=CLOSE if rich else WIDE, goals=spots) if spots else None
        if reach and reach.goal is not None and (path := reach.path(reach.goal)):
            return self.start(Plan(f"go to the table to {goal}", path))
        return self.put("place_table", f"place a table to {goal}") if rich else None

    def work(self) -> Decision | None:
        """Go to the nearest thing that is wanted."""
        return self.nearest(needs.wants(self.sight), WIDE)

    def explore(self) -> Decision:
        """Go where most unknown ground comes into sight."""
        reach = flood(self.memory, self.costs, limit=WIDE)
        lookout = best_lookout(self.memory, reach, needs.hints(self.sight))
        plan = Plan("explore", reach.path(lookout)) if lookout is not None else Plan("wait")
        return self.start(plan) or ("noop", "wait")

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

    def nearest(self, wants: dict[Kind, int], limit: int) -> Decision | None:
        """Plan to use the nearest of the wanted kinds."""
        reach = flood(self.memory, self.costs, limit=limit, wants=wants)
        found = [
            (reach.touched[kind][0] + handicap, str(kind), kind) for kind, handicap in wants.items() if kind in reach.touched
        ]
        if not found:
            return None
        kind = min(found)[2]
        _, cell, target = reach.touched[kind]
        return self.start(Plan(needs.GOALS[kind], reach.path(cell), target, kind))

    def start(self, plan: Plan) -> Decision | None:
        """Take up a plan and make its first move."""
        plan.since = self.memory.steps
        self.goals.plan = plan
        return self.follow()

    def follow(self) -> Decision | None:
        """Go on with the plan while it makes sense."""
        plan = self.goals.plan
        if plan is None:
            return None
        if plan.path and plan.path[0] == self.memory.at:
            plan.path.pop(0)
        if self.sensible(plan):
            if plan.path:
                return self.towards(plan.path[0]), plan.goal
            if plan.target is not None:
                return self.use(plan.target), plan.goal
        self.goals.plan = None
        return None

    def sensible(self, plan: Plan) -> bool:
        """True while the plan is fresh, its next cell can be entered, and its target is still there."""
        if self.memory.steps - plan.since > PLAN_STEPS or (plan.kind in FOES and plan.since != self.memory.steps):
            return False
        if plan.target is not None and self.kind(plan.target) != plan.kind:
            return False
        if plan.path:
            ahead = plan.path[0]
            return ahead - self.memory.at in MOVE_BY and self.costs[self.memory.map[ahead]] > 0
        return plan.target is not None and plan.target - self.memory.at in MOVE_BY


def _a(tool: str) -> str:
    words = tool.replace("_", " ")
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
