"""What lives in a Crafter world, and what each does in a step. Every draw is made where stock Crafter makes it."""

from __future__ import annotations

from typing import ClassVar

from workers.rollout.envs.crafter.draws import below
from workers.rollout.envs.crafter.tables import (
    DIRECTIONS,
    FURNACE,
    PATH,
    SPRITES,
    TABLE,
    WALKABLE,
    WALKABLE_ARROW,
)
from workers.rollout.envs.crafter.world import STRIDE, World, cell

_ARROWS, _PLANT = SPRITES.index("arrow-left"), SPRITES.index("plant")
RIPE = 300
"""A plant is ripe after more updates than this."""


class Thing:
    """Something that stands on a tile. Positions are tiles, y downwards."""

    __slots__ = ("at", "health", "removed", "x", "y")
    name: ClassVar[str]
    picture: ClassVar[int] = -1

    def __init__(self, x: int, y: int, health: int) -> None:
        self.x, self.y = x, y
        self.at = cell(x, y)
        self.health = health
        self.removed = False

    @property
    def sprite(self) -> int:
        """Number of its picture in ``SPRITES``."""
        return self.picture

    def hurt(self, damage: int) -> None:
        """Lose health; never below 0."""
        self.health = max(0, self.health - damage)

    def update(self, world: World) -> None:
        """Live through one step."""
        raise NotImplementedError

    def distance(self, other: Thing) -> int:
        """Steps between the two, without diagonals."""
        return abs(other.x - self.x) + abs(other.y - self.y)

    def toward(self, other: Thing, long_axis: bool = True) -> tuple[int, int]:
        """One tile toward the other along the longer or the shorter axis; (0, 0) if it lies at 0 on that one."""
        dx, dy = other.x - self.x, other.y - self.y
        ax, ay = abs(dx), abs(dy)
        if ax > ay if long_axis else ax <= ay:
            return (dx > 0) - (dx < 0), 0
        return 0, (dy > 0) - (dy < 0)

    def wander(self, world: World) -> None:
        """Try one tile in a drawn direction."""
        dx, dy = DIRECTIONS[below(world.rng, 4)]
        world.try_move(self, dx, dy, WALKABLE)


class Cow(Thing):
    """Walks about; is food."""

    __slots__ = ()
    name = "cow"
    picture = SPRITES.index("cow")

    def __init__(self, x: int, y: int, health: int = 3) -> None:
        super().__init__(x, y, health)

    def update(self, world: World) -> None:
        if self.health <= 0:
            world.remove(self)
        if world.rng.random() < 0.5:
            self.wander(world)


class Zombie(Thing):
    """Comes for the player and hits it. One that dies in this step still acts, as in stock Crafter."""

    __slots__ = ("cooldown",)
    name = "zombie"
    picture = SPRITES.index("zombie")

    def __init__(self, x: int, y: int, health: int = 5, cooldown: int = 0) -> None:
        super().__init__(x, y, health)
        self.cooldown = cooldown

    def update(self, world: World) -> None:
        player, draw = world.player, world.rng.random
        if self.health <= 0:
            world.remove(self)
        if self.distance(player) <= 8 and draw() < 0.9:
            dx, dy = self.toward(player, draw() < 0.8)
            world.try_move(self, dx, dy, WALKABLE)
        else:
            self.wander(world)
        if self.distance(player) > 1:
            return
        if self.cooldown:
            self.cooldown -= 1
            return
        player.hurt(7 if player.sleeping else 2)
        self.cooldown = 5


class Skeleton(Thing):
    """Keeps its distance and shoots."""

    __slots__ = ("reload",)
    name = "skeleton"
    picture = SPRITES.index("skeleton")

    def __init__(self, x: int, y: int, health: int = 3, reload: int = 0) -> None:
        super().__init__(x, y, health)
        self.reload = reload

    def update(self, world: World) -> None:
        player, draw = world.player, world.rng.random
        if self.health <= 0:
            world.remove(self)
        self.reload = max(0, self.reload - 1)
        distance = self.distance(player)
        if distance <= 3:
            dx, dy = self.toward(player, draw() < 0.6)
            if world.try_move(self, -dx, -dy, WALKABLE):
                return
        if distance <= 5 and draw() < 0.5:
            self._shoot(world, *self.toward(player))
        elif distance <= 8 and draw() < 0.3:
            dx, dy = self.toward(player, draw() < 0.6)
            world.try_move(self, dx, dy, WALKABLE)
        elif draw() < 0.2:
            self.wander(world)

    def _shoot(self, world: World, dx: int, dy: int) -> None:
        if self.reload > 0 or (dx == 0 and dy == 0):
            return
        to = self.at + dx * STRIDE + dy
        if world.standing[to] is None and WALKABLE_ARROW[world.materials[to]]:
            world.add(Arrow(self.x + dx, self.y + dy, dx, dy))
            self.reload = 4


class Arrow(Thing):
    """Flies one tile a step until it meets something; breaks tables and furnaces."""

    __slots__ = ("dx", "dy")
    name = "arrow"

    def __init__(self, x: int, y: int, dx: int, dy: int, health: int = 0) -> None:
        super().__init__(x, y, health)
        self.dx, self.dy = dx, dy

    @property
    def sprite(self) -> int:
        return _ARROWS + DIRECTIONS.index((self.dx, self.dy))

    def update(self, world: World) -> None:
        to = self.at + self.dx * STRIDE + self.dy
        hit, material = world.standing[to], world.materials[to]
        if hit is not None:
            hit.hurt(2)
            world.remove(self)
        elif not WALKABLE_ARROW[material]:
            world.remove(self)
            if material in (TABLE, FURNACE):
                world.set_material(to, PATH)
        else:
            world.try_move(self, self.dx, self.dy, WALKABLE_ARROW)


class Plant(Thing):
    """A sapling that was planted: grows while the player is near, and animals beside it eat it."""

    __slots__ = ("grown",)
    name = "plant"

    def __init__(self, x: int, y: int, health: int = 1, grown: int = 0) -> None:
        super().__init__(x, y, health)
        self.grown = grown

    @property
    def ripe(self) -> bool:
        """True when it can be eaten."""
        return self.grown > RIPE

    @property
    def sprite(self) -> int:
        return _PLANT + self.ripe

    def update(self, world: World) -> None:
        self.grown += 1
        beside = (self.at - STRIDE, self.at + STRIDE, self.at - 1, self.at + 1)
        if any(isinstance(world.standing[at], (Zombie, Skeleton, Cow)) for at in beside):
            self.hurt(1)
        if self.health <= 0:
            world.remove(self)
