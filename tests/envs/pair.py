"""Stock Crafter and ours side by side: every step is taken in both, and all that can be seen of both is compared."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from stock import stock

from workers.rollout.envs.base import StepResult
from workers.rollout.envs.crafter import Crafter
from workers.rollout.envs.crafter.tables import COAL, DIRECTION_NAMES, DIRECTIONS, MATERIALS, SEMANTIC
from workers.rollout.envs.crafter.things import Plant

TARGETS = ("skeleton", "zombie", "cow", "plant", "arrow", "water", "tree", "iron", "diamond", "coal", "table", "lava")


class Pair:
    """One episode in both."""

    def __init__(self, seed: int, *, length: int = 10_000, size: int = 64) -> None:
        self.ours = Crafter(length=length, image_size=size)
        self.stock = stock(seed, length=length, size=size)
        self.ours.reset(seed)
        self.compare(self.stock.reset())

    def step(self, action: str, *, look: bool = True) -> StepResult:
        """One step in both. ``look`` false: ours never draws its frame."""
        frame, reward, done, info = self.stock.step(self.ours.actions.index(action))
        result = self.ours.step(action)
        dead = info["discount"] == 0
        assert (result.reward, result.terminated, result.truncated) == (reward, dead, done and not dead), self._where()
        assert self.ours.inventory() == info["inventory"], self._where()
        assert self.ours.world.player.counts == info["achievements"], self._where()
        assert np.array_equal(self.ours.world.semantic(), info["semantic"]), self._where()
        self.compare(frame if look else None)
        return result

    def compare(self, frame: Any) -> None:
        world = self.ours.world
        _, key, index, *_ = self.stock._world.random.get_state()
        words = world.rng.getstate()[1]
        assert words[-1] == index, self._where()
        assert np.array_equal(np.array(words[:-1]), key), self._where()
        if frame is not None:
            assert np.array_equal(self.ours.frame(), frame), self._where()

    def give(self, **amounts: int) -> None:
        """Set amounts of the inventory in both."""
        for inventory in (self.stock._player.inventory, self.ours.world.player.inventory):
            inventory.update(amounts)
        self.stock._last_health = self.stock._player.inventory["health"]

    def ripen(self, steps: int) -> None:
        """Let every plant be older by so many steps, in both."""
        for thing in self.stock._world.objects:
            if type(thing).__name__ == "Plant":
                thing.grown += steps
        for thing in self.ours.world.objects:
            if isinstance(thing, Plant):
                thing.grown += steps

    def _where(self) -> str:
        return f"seed {self.ours.world.seed}, step {self.ours.length}, daylight {self.ours.world.daylight:.3f}"


class Busy:
    """A player that is given what it needs, hunts one thing after another, digs its way, crafts, plants, sleeps and gets hurt."""

    def __init__(self, pair: Pair, seed: int) -> None:
        self.pair = pair
        self.rng = random.Random(seed)
        self.target = TARGETS[0]

    def step(self, *, look: bool = True) -> StepResult:
        step = self.pair.ours.length
        if step % 8 == 0:
            self.pair.give(health=9, food=self.rng.choice((1, 9)), drink=5, wood=9, stone=9, sapling=4)
        if step % 200 == 100:
            self.pair.give(wood_pickaxe=1, stone_pickaxe=1, iron_pickaxe=1, coal=2, iron=2, energy=3)
            self.pair.ripen(200)
        if step % 30 == 0:
            self.target = self.rng.choice(TARGETS)
        return self.pair.step(self._action(), look=look)

    def _action(self) -> str:
        if self.rng.random() < 0.3:
            return self.rng.choice(self.pair.ours.actions)
        world, player = self.pair.ours.world, self.pair.ours.world.player
        number = SEMANTIC.get(self.target) or MATERIALS.index(self.target)
        found = np.argwhere(world.semantic() == number)
        if not len(found):
            return "place_plant" if self.target == "plant" else "do"
        dx, dy = found[np.abs(found - (player.x, player.y)).sum(axis=1).argmin()] - (player.x, player.y)
        way = (int(np.sign(dx)), 0) if abs(dx) > abs(dy) else (0, int(np.sign(dy)))
        ahead = world.material(player.x + way[0], player.y + way[1])
        if player.facing == way and (
            world.thing(player.x + way[0], player.y + way[1]) or ahead in ("stone", "tree", *MATERIALS[COAL:])
        ):
            return "do"
        if ahead in ("water", "lava"):
            return "place_stone" if player.facing == way else self.rng.choice(("noop", "move_" + _named(way)))
        return "move_" + _named(way)


def _named(way: tuple[int, int]) -> str:
    return DIRECTION_NAMES[DIRECTIONS.index(way)]


WEIGHTS = {"noop": 1, "do": 10, "move_left": 4, "move_right": 4, "move_up": 4, "move_down": 4, "sleep": 0.3}


def play_to_the_end(seed: int) -> Pair:
    """Weighted random actions until the player dies, with nothing given."""
    pair, rng = Pair(seed), random.Random(seed)
    actions = pair.ours.actions
    while not pair.ours.ended:
        pair.step(rng.choices(actions, [WEIGHTS.get(action, 1) for action in actions])[0])
    return pair


def play_busily(seed: int, steps: int) -> Pair:
    """A player that does everything there is to do, for so many steps or until it dies."""
    pair = Pair(seed, length=steps)
    player = Busy(pair, seed)
    while not pair.ours.ended:
        player.step()
    return pair
