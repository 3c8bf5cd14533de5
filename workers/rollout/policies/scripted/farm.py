"""A plant of one's own: where it is put, the fence around it, and the wait until it is ripe."""

from __future__ import annotations

from workers.rollout.policies.scripted import kinds
from workers.rollout.policies.scripted.hands import MOVE_BY, Decision
from workers.rollout.policies.scripted.memory import distance
from workers.rollout.policies.scripted.paths import AROUND
from workers.rollout.policies.scripted.plans import Plan, Planner

FAR_FIELD = 25
"""Steps: as far as the player goes for a place to plant."""
SIDE_STEPS = 6
"""Steps that a stone more in the fence is worth."""
STAY = 14
"""How far from its plant the player stays: it grows only within 17 steps."""
FAR_BACK = 80
"""Steps: as far as it goes back to its plant."""
FENCE_STONES = 4
"""Stones to have in hand before a plant is put somewhere."""


class Farm(Planner):
    """What there is to do about a plant."""

    def farm(self) -> Decision | None:
        """The next thing that the plant needs; None when it needs nothing but time."""
        if "eat_plant" in self.sight.unlocked:
            return None
        plant = self.own_plant()
        if plant is None:
            return self.plant_somewhere()
        sides = self.open_sides(plant)
        if sides:
            return self.fence(sides)
        if self.distance(plant) > STAY:
            reach = self.reach(FAR_BACK)
            beside = min((plant + step for step in AROUND), key=reach.cost.__getitem__)
            path = reach.path(beside)
            return self.start(Plan("go back to the plant", path)) if path else None
        return None

    def own_plant(self) -> int | None:
        """The nearest plant that is known."""
        plants = self.all(kinds.PLANT) + self.all(kinds.RIPE)
        return min(plants, key=lambda cell: (self.distance(cell), cell), default=None)

    def open_sides(self, plant: int) -> list[int]:
        """Cells beside it from which an animal could eat it."""
        return [plant + step for step in AROUND if self.memory.map[plant + step] in kinds.FREE]

    def fence(self, sides: list[int]) -> Decision | None:
        """Put a stone on one of these cells."""
        if not self.have("stone"):
            return self.nearest({kinds.STONE: 0}, FAR_FIELD) if self.have("wood_pickaxe") else None
        if self.faced in sides and self.open(self.faced):
            return "place_stone", "fence the plant"
        for cell in sorted(sides, key=self.distance):
            found = self.lay("place_stone", "fence the plant", cell)
            if found:
                return found
        return None

    def growing(self) -> bool:
        """True while there is a plant to wait for."""
        return "eat_plant" not in self.sight.unlocked and bool(self.all(kinds.PLANT))

    def grows_with(self, cell: int) -> bool:
        """True when the player's being there lets the nearest plant grow."""
        plant = self.own_plant()
        return plant is None or distance(plant, cell) <= STAY

    def plant_somewhere(self) -> Decision | None:
        """Get a sapling, and put it where few stones will fence it."""
        if not self.have("sapling"):
            return self.search_grass() or self.go_to_grass()
        reach = self.reach(FAR_FIELD)
        ground = self.memory.map
        sites = [
            (reach.cost[cell] + SIDE_STEPS * len(self.open_sides(cell)), cell)
            for cell in reach.cells[1:]
            if ground[cell] == kinds.GRASS and self.open(cell)
        ]
        for _, cell in sorted(sites)[:3]:
            found = self.lay("place_plant", "place a sapling", cell)
            if found:
                return found
        return None

    def search_grass(self) -> Decision | None:
        """Search the grass ahead for a sapling."""
        if self.have("sapling") or self.watched():
            return None
        ground = self.memory.map
        if self.open(self.faced) and ground[self.faced] == kinds.GRASS:
            return "do", "search the grass for a sapling"
        for step in AROUND:
            ahead, beyond = self.memory.at + step, self.memory.at + 2 * step
            if self.open(ahead) and self.open(beyond) and ground[beyond] == kinds.GRASS:
                return MOVE_BY[step], "find grass to search"
        return None

    def go_to_grass(self) -> Decision | None:
        """Go to the nearest grass."""
        reach = self.reach(FAR_FIELD)
        for cell in reach.cells[1:]:
            if self.memory.map[cell] == kinds.GRASS:
                return self.start(Plan("find grass to search", reach.path(cell)))
        return None

    def distance(self, cell: int) -> int:
        """Steps to a cell, if nothing stood between."""
        return distance(cell, self.memory.at)
