"""One game step, in stock Crafter's order: the player, everything near it, the balance of animals, the frame's noise."""

from __future__ import annotations

from workers.rollout.envs.crafter.balance import balance
from workers.rollout.envs.crafter.draws import seeded
from workers.rollout.envs.crafter.player import Player
from workers.rollout.envs.crafter.world import SIDE, World
from workers.rollout.envs.crafter.worldgen import generate

NEAR = 18
"""Only what is nearer to the player than this many steps lives through a step."""
BALANCE_EVERY = 10
_SEEDS = 2**31 - 1


def begin(seed: int) -> World:
    """The world of a seed before its first step: the first episode of stock Crafter's ``Env(seed=seed)``."""
    # A tuple of integers hashes alike in every process; this is how stock Crafter numbers the episodes of a seed.
    world = World(seed, seeded(hash((seed, 1)) % _SEEDS), Player(SIDE // 2, SIDE // 2))
    generate(world)
    world.dusk()
    return world


def advance(world: World, action: str) -> tuple[str, ...]:
    """Carry out one step; the achievements that it reached for the first time."""
    world.step += 1
    player = world.player
    player.action = action
    things = list(world.objects)[1:]
    player.update(world)
    x, y = player.x, player.y
    # Nothing moves another thing, so who is near is settled before the first of them acts.
    for thing in [thing for thing in things if abs(thing.x - x) + abs(thing.y - y) < NEAR]:
        thing.update(world)
    if world.step % BALANCE_EVERY == 0:
        balance(world)
    world.dusk()
    return _note_unlocked(world)


def _note_unlocked(world: World) -> tuple[str, ...]:
    unlocked = world.unlocked
    new = tuple([name for name, count in world.player.counts.items() if count and name not in unlocked])
    for name in new:
        unlocked[name] = world.step
    return new
