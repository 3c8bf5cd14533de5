"""Staying alive: when to fight, to sleep, and to go under cover."""

from __future__ import annotations

from workers.rollout.policies.scripted import shelter
from workers.rollout.policies.scripted.hands import FOES, Decision
from workers.rollout.policies.scripted.paths import AROUND
from workers.rollout.policies.scripted.plans import Plan, Planner

CLOSE = 20
"""Steps: as far as a shelter is looked for."""
TIRED_AND_HURT = {False: (2, 3), True: (8, 5)}
"""Energy and health at or below which the player takes cover, by day and in the dark."""

Shelter = tuple[int, int]
"""(door cell, direction inwards)."""


class Cover(Planner):
    """What keeps the player alive."""

    shelter: Shelter | None
    """The shelter being made."""

    def fight(self) -> Decision | None:
        """Hit what stands beside the player and would hit first."""
        beside = [self.memory.at + step for step in AROUND]
        foes = [cell for cell in beside if self.memory.creatures.get(cell) in FOES]
        if not foes:
            return None
        cell = self.faced if self.faced in foes else foes[0]
        return self.use(cell), f"defeat the {self.memory.creatures[cell]}"

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

    def make_shelter(self) -> Decision | None:
        """Go on making the shelter that was begun: in, further in, back, close the door."""
        if self.shelter is None:
            return None
        door, step = self.shelter
        outer, inner, at = door + step, door + 2 * step, self.memory.at
        goal = "make a shelter"
        if at in (door, inner):
            return self.towards(outer), goal
        if at == outer and self.faced == inner:
            return self.towards(inner), goal
        if at == outer and self.faced == door and self.have("stone") and self.open(door):
            self.shelter = None
            return "place_stone", goal
        self.shelter = None
        return None

    def take_cover(self) -> Decision | None:
        """Begin a shelter when tired in the dark, worn out or badly hurt."""
        sight = self.sight
        energy, health = TIRED_AND_HURT[sight.dark]
        if sight.energy > energy and sight.health > health:
            return None
        found = self.go_under()
        if found is None and sight.energy <= 1 and not self.watched():
            return "sleep", "sleep where I stand"
        return found

    def go_under(self) -> Decision | None:
        """Find a place for a shelter, and begin it there."""
        if not self.have("wood_pickaxe"):
            return None
        reach = self.reach(CLOSE)
        found = shelter.find(self.memory, reach, stones=self.have("stone", 0))
        if found is None:
            return None
        path = reach.path(found[0])
        if path:
            return self.start(Plan("find shelter", path))
        self.shelter = found
        return self.make_shelter()

    def hide(self) -> Decision | None:
        """Wait under cover: there is nothing better to do."""
        return ("noop", "wait in the shelter") if shelter.sealed(self.memory) else self.go_under()
