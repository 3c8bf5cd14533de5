"""A plan: a way, and what to use at its end; and how one is made, kept and followed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from workers.rollout.policies.scripted import needs
from workers.rollout.policies.scripted.hands import FOES, MOVE_BY, Decision, Hands
from workers.rollout.policies.scripted.memory import Memory
from workers.rollout.policies.scripted.paths import AROUND, Kind, Reach, flood
from workers.rollout.policies.scripted.sight import Sight

PLAN_STEPS = 8
"""A plan older than this is made anew, for better things may have come into sight."""


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


class Planner(Hands):
    """The player at one look, with the plan that it follows."""

    sight: Sight

    def __init__(self, sight: Sight, memory: Memory, plan: Plan | None) -> None:
        super().__init__(sight, memory)
        self.plan = plan

    def reach(self, limit: int, goals: Collection[int] = ()) -> Reach:
        """Ways to everything within so many steps, or as far as the first of the goals."""
        return flood(self.memory, self.costs, limit=limit, danger=self.danger, goals=goals)

    def nearest(self, wants: dict[Kind, int], limit: int) -> Decision | None:
        """Plan to use the nearest of the wanted kinds."""
        reach = flood(self.memory, self.costs, limit=limit, danger=self.danger, wants=wants)
        found = [
            (reach.touched[kind][0] + handicap, str(kind), kind) for kind, handicap in wants.items() if kind in reach.touched
        ]
        if not found:
            return None
        kind = min(found)[2]
        _, cell, target = reach.touched[kind]
        return self.start(Plan(needs.GOALS[kind], reach.path(cell), target, kind))

    def lay(self, action: str, goal: str, cell: int) -> Decision | None:
        """Put something on a cell nearby or far: from beside it, facing it, having come towards it from one cell further."""
        if self.faced == cell:
            return (action, goal) if self.open(cell) else None
        reach = self.reach(LAY_REACH)
        ways = []
        for step in AROUND:
            beside, behind = cell + step, cell + 2 * step
            if self.enterable(beside) and (behind == self.memory.at or self.enterable(behind)):
                ways.append((reach.cost[behind] + self.costs[self.memory.map[beside]], behind, beside))
        if not ways:
            return None
        steps, behind, beside = min(ways)
        if steps > LAY_REACH:
            return None
        return self.start(Plan(goal, [*reach.path(behind), beside]))

    def start(self, plan: Plan) -> Decision | None:
        """Take up a plan and make its first move."""
        plan.since = self.memory.steps
        self.plan = plan
        return self.follow()

    def follow(self) -> Decision | None:
        """Go on with the plan while it makes sense."""
        plan = self.plan
        if plan is None:
            return None
        if plan.path and plan.path[0] == self.memory.at:
            plan.path.pop(0)
        if self.sensible(plan):
            if plan.path:
                return self.towards(plan.path[0]), plan.goal
            if plan.target is not None:
                return self.use(plan.target), plan.goal
        self.plan = None
        return None

    def sensible(self, plan: Plan) -> bool:
        """True while the plan is fresh, its next cell can be entered, and its target is still there."""
        if self.memory.steps - plan.since > PLAN_STEPS or (plan.kind in FOES and plan.since != self.memory.steps):
            return False
        if plan.target is not None and self.kind(plan.target) != plan.kind:
            return False
        if plan.path:
            ahead = plan.path[0]
            return ahead - self.memory.at in MOVE_BY and self.enterable(ahead)
        return plan.target is not None and plan.target - self.memory.at in MOVE_BY


LAY_REACH = 40
"""Steps: as far as the player goes to put something on a cell."""
