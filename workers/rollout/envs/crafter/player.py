"""The player: what it has, how it fares, and what its action does. Draws are made where stock Crafter makes them."""

from __future__ import annotations

from workers.rollout.envs.crafter.tables import (
    ACHIEVEMENTS,
    COLLECT,
    DIRECTION_NAMES,
    DIRECTIONS,
    ITEMS,
    LAVA,
    MAKE,
    MOST,
    PLACE,
    SPRITES,
    VITALS,
    WALKABLE_PLAYER,
    WATER,
)
from workers.rollout.envs.crafter.things import Cow, Plant, Skeleton, Thing, Zombie
from workers.rollout.envs.crafter.world import STRIDE, World

_ASLEEP = SPRITES.index("player-sleep")
_DAMAGE = (("iron_sword", 5), ("stone_sword", 3), ("wood_sword", 2))


class Player(Thing):
    """The one that acts. Its health is in the inventory, as in stock Crafter."""

    __slots__ = (
        "action",
        "changed",
        "counts",
        "facing",
        "fatigue",
        "hunger",
        "inventory",
        "last_health",
        "recover",
        "sleeping",
        "thirst",
    )
    name = "player"
    inventory: dict[str, int]

    def __init__(self, x: int, y: int) -> None:
        self.inventory = {item: MOST if item in VITALS else 0 for item in ITEMS}
        super().__init__(x, y, MOST)
        self.facing = (0, 1)
        """One tile's step toward what it looks at."""
        self.sleeping = False
        self.action = "noop"
        self.changed = False
        """Whether its last action did anything."""
        self.counts = dict.fromkeys(ACHIEVEMENTS, 0)
        """How often each achievement was reached."""
        self.hunger = 0
        """Half-steps since it last lost food; ``thirst`` likewise."""
        self.thirst = 0
        self.fatigue = 0
        """Steps: awake it counts up, asleep down."""
        self.recover = 0
        """Half-steps toward gaining (or, below 0, losing) a point of health."""
        self.last_health = MOST

    @property
    def health(self) -> int:
        """Points of health, 0 to 9; 0 is death."""
        return self.inventory["health"]

    @health.setter
    def health(self, value: int) -> None:
        self.inventory["health"] = max(0, value)

    @property
    def sprite(self) -> int:
        return _ASLEEP if self.sleeping else DIRECTIONS.index(self.facing)

    @property
    def facing_name(self) -> str:
        """``left``, ``right``, ``up`` or ``down``."""
        return DIRECTION_NAMES[DIRECTIONS.index(self.facing)]

    @property
    def target(self) -> int:
        """The cell that it looks at."""
        return self.at + self.facing[0] * STRIDE + self.facing[1]

    def update(self, world: World) -> None:
        action = self.action
        asleep = self.sleeping
        if asleep:
            if self.inventory["energy"] < MOST:
                action = "sleep"
            else:
                self.sleeping = asleep = False
                self.counts["wake_up"] += 1
        self.changed = self._act(world, action) and not asleep
        self._live()
        self._recover_or_suffer()
        inventory = self.inventory
        for item, amount in inventory.items():
            if amount > MOST or amount < 0:
                inventory[item] = MOST if amount > MOST else 0
        if inventory["health"] < self.last_health:
            self.sleeping = False
        self.last_health = inventory["health"]

    def _act(self, world: World, action: str) -> bool:
        """Carry out the action; true if that changed anything."""
        verb, _, name = action.partition("_")
        if verb == "move":
            return self._move(world, DIRECTIONS[DIRECTION_NAMES.index(name)])
        if verb == "do":
            thing = world.standing[self.target]
            return self._collect(world) if thing is None else self._touch(thing)
        if verb == "sleep":
            falls_asleep = self.inventory["energy"] < MOST
            self.sleeping = self.sleeping or falls_asleep
            return falls_asleep
        if verb == "place":
            return self._place(world, name)
        return verb == "make" and self._make(world, name)

    def _move(self, world: World, direction: tuple[int, int]) -> bool:
        turned, self.facing = self.facing != direction, direction
        moved = world.try_move(self, *direction, WALKABLE_PLAYER)
        if world.materials[self.at] == LAVA:
            self.health = 0
        return turned or moved

    def _touch(self, thing: Thing) -> bool:
        if isinstance(thing, Plant):
            if not thing.ripe:
                return False
            thing.grown = 0
            self.inventory["food"] += 4
            self.counts["eat_plant"] += 1
            return True
        if not isinstance(thing, (Zombie, Skeleton, Cow)):
            return False
        thing.hurt(next((damage for sword, damage in _DAMAGE if self.inventory[sword]), 1))
        if thing.health > 0:
            return True
        if isinstance(thing, Cow):
            self.inventory["food"] += 6
            self.counts["eat_cow"] += 1
            self.hunger = 0
        else:
            self.counts[f"defeat_{thing.name}"] += 1
        return True

    def _collect(self, world: World) -> bool:
        at = self.target
        material = world.materials[at]
        if material == WATER:
            self.thirst = 0
        rule = COLLECT.get(material)
        if rule is None or (rule.tool and self.inventory[rule.tool] < 1):
            return False
        if rule.leaves != material:
            world.set_material(at, rule.leaves)
        if world.rng.random() > rule.probability:
            return False
        self.inventory[rule.item] += 1
        self.counts[f"collect_{rule.item}"] += 1
        return True

    def _place(self, world: World, name: str) -> bool:
        rule, at = PLACE[name], self.target
        if world.standing[at] is not None or world.materials[at] not in rule.where or not self._pay(rule.uses):
            return False
        if rule.material is None:
            world.add(Plant(self.x + self.facing[0], self.y + self.facing[1]))
        else:
            world.set_material(at, rule.material)
        self.counts[f"place_{name}"] += 1
        return True

    def _make(self, world: World, name: str) -> bool:
        rule = MAKE[name]
        if not world.nearby(self.x, self.y).issuperset(rule.nearby) or not self._pay(rule.uses):
            return False
        self.inventory[name] += 1
        self.counts[f"make_{name}"] += 1
        return True

    def _pay(self, uses: tuple[tuple[str, int], ...]) -> bool:
        """Take what something costs, all of it or nothing."""
        if any(self.inventory[item] < amount for item, amount in uses):
            return False
        for item, amount in uses:
            self.inventory[item] -= amount
        return True

    def _live(self) -> None:
        """Hunger, thirst and tiredness; asleep the first two go half as fast."""
        inventory = self.inventory
        pace = 1 if self.sleeping else 2
        self.hunger += pace
        if self.hunger > 50:
            self.hunger = 0
            inventory["food"] -= 1
        self.thirst += pace
        if self.thirst > 40:
            self.thirst = 0
            inventory["drink"] -= 1
        self.fatigue = min(self.fatigue - 1, 0) if self.sleeping else self.fatigue + 1
        if self.fatigue < -10:
            self.fatigue = 0
            inventory["energy"] += 1
        if self.fatigue > 30:
            self.fatigue = 0
            inventory["energy"] -= 1

    def _recover_or_suffer(self) -> None:
        inventory = self.inventory
        if inventory["food"] > 0 and inventory["drink"] > 0 and (self.sleeping or inventory["energy"] > 0):
            self.recover += 4 if self.sleeping else 2
        else:
            self.recover -= 1 if self.sleeping else 2
        if self.recover > 50:
            self.recover = 0
            self.health += 1
        if self.recover < -30:
            self.recover = 0
            self.health -= 1
