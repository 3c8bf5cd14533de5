"""Crafter as an environment of synthq: what a player may do and see, over a world that keeps stock Crafter's every draw."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from app.errors import EpisodeOver, InvalidInput, UnknownAction
from workers.rollout.envs.base import Pixels, StepResult
from workers.rollout.envs.crafter import starts, tables, text
from workers.rollout.envs.crafter.advance import advance
from workers.rollout.envs.crafter.draws import doubles
from workers.rollout.envs.crafter.render import ROWS, VIEW, painter, window
from workers.rollout.envs.crafter.state import pack, seal, unpack, unseal
from workers.rollout.envs.crafter.tables import DIRECTION_NAMES, ITEMS, MATERIALS, SPRITES, VITALS
from workers.rollout.envs.crafter.world import NOISE, SIDE, World

SMALLEST_PX, LARGEST_PX = 9, 144
_STOCK_TILE_PX = 7
_SEEDS = 2**61 - 1
"""Seeds from here on would share their worlds with smaller ones."""


class Crafter:
    """The game of Crafter, equal to the package ``crafter`` 1.8.3 with ordered chunks at 64 pixels, bit for bit.

    ``changed`` of a step is about the player's own action alone: false if it neither turned nor moved the player, gave or took
    an item, altered a tile, hit an animal, nor made the player fall asleep. Noop is always false, and so is whatever is asked
    of a sleeper, who sleeps on.
    """

    name = "crafter"
    version = "1"
    actions = tables.ACTIONS
    achievements = tables.ACHIEVEMENTS
    tiles = VIEW
    """Tiles along each side of the frame, for ``pixels.upscale``."""

    def __init__(self, *, image_size: int = 64, length: int = 10_000, area: tuple[int, int] = (SIDE, SIDE)) -> None:
        if not SMALLEST_PX <= image_size <= LARGEST_PX:
            raise InvalidInput(f"image_size is {image_size}; a frame has {SMALLEST_PX} to {LARGEST_PX} pixels a side")
        if length < 1:
            raise InvalidInput(f"length is {length}; an episode has at least 1 game step")
        if tuple(area) != (SIDE, SIDE):
            raise InvalidInput(f"area is {tuple(area)}; the world has {SIDE} by {SIDE} tiles, as in stock Crafter")
        self.image_size = image_size
        self.most_steps = length
        self._painter = painter(image_size)
        self._world: World | None = None
        self._frame: Pixels | None = None
        self._status: dict[str, Any] | None = None

    @property
    def world(self) -> World:
        """Everything there is, beyond what the picture shows: for policies that may know, and for tests. Read it only."""
        if self._world is None:
            raise EpisodeOver("none has begun")
        return self._world

    def reset(self, seed: int) -> None:
        """Begin the episode of this seed. Raises InvalidInput for one below 0 or beyond 2**61 - 2."""
        if not 0 <= seed < _SEEDS:
            raise InvalidInput(f"seed is {seed}; Crafter's worlds have seeds 0 to {_SEEDS - 1}")
        self._world = starts.shared(self.version).world(int(seed))
        self._frame = self._status = None

    def step(self, action: str) -> StepResult:
        """Carry out one action. Reward: a tenth of the health gained or lost, and 1 if anything was unlocked."""
        if action not in self.actions:
            raise UnknownAction(action, self.actions)
        world, ended = self.world, self.ended
        if ended:
            raise EpisodeOver(ended)
        self._frame = self._status = None
        health = world.player.health
        unlocked = advance(world, action)
        reward = (world.player.health - health) / 10
        died = world.player.health <= 0
        return StepResult(
            reward=reward + 1.0 if unlocked else reward,
            unlocked=unlocked,
            terminated=died,
            truncated=not died and world.step >= self.most_steps,
            changed=world.player.changed,
        )

    def frame(self) -> Pixels:
        """The present picture: uint8 [image_size, image_size, 3], read-only."""
        if self._frame is None:
            self._frame = self._painter.paint(self.world, self._noise())
        return self._frame

    def status(self) -> dict[str, Any]:
        """What the picture shows, and what the player faces.

        Keys: ``step``; ``health``, ``food``, ``drink``, ``energy``; ``inventory`` (amounts of what it has, by name); ``facing``
        ([dx, dy], y downwards) and ``faces`` (the object or else the material there); ``sleeping``; ``daylight`` (0 to 1);
        ``achievements`` (unlocked so far); ``view``: 7 rows of 9 names, the player in the middle; a name is that of the object
        on the tile, such as ``cow`` or ``plant-ripe``, or else of its material, ``outside`` beyond the map. Read only: it is the
        same dict until the next step.
        """
        if self._status is None:
            self._status = self._look()
        return self._status

    def _look(self) -> dict[str, Any]:
        world, player = self.world, self.world.player
        view = _names(world)
        dx, dy = player.facing
        return {
            "step": world.step,
            **{name: player.inventory[name] for name in VITALS},
            "inventory": {name: player.inventory[name] for name in ITEMS[len(VITALS) :] if player.inventory[name]},
            "facing": list(player.facing),
            "faces": view[ROWS // 2 + dy][VIEW // 2 + dx],
            "sleeping": player.sleeping,
            "daylight": world.daylight,
            "achievements": list(world.unlocked),
            "view": view,
        }

    def unlocked(self) -> dict[str, int]:
        """Achievements so far, each with the number of game steps after which it was reached."""
        return dict(self.world.unlocked)

    def inventory(self) -> dict[str, int]:
        """All 16 items, the vitals first."""
        return dict(self.world.player.inventory)

    @property
    def length(self) -> int:
        """Game steps played in this episode."""
        return self.world.step

    @property
    def ended(self) -> str | None:
        """None, ``died`` or ``length``."""
        if self.world.player.health <= 0:
            return "died"
        return "length" if self.world.step >= self.most_steps else None

    def rules(self, level: str) -> str:
        """What a player needs to know."""
        return text.rules(level)

    def describe(self, status: dict[str, Any]) -> str:
        """The present state in words."""
        return text.describe(status)

    def state_sha256(self) -> str:
        """Hash of the world and the episode's length; the size of the picture has no part in it."""
        return hashlib.sha256(pack(self.world) + b"length %d" % self.most_steps).hexdigest()

    def snapshot(self) -> bytes:
        """The running episode. Size of the picture and length stay with the environment that reads it."""
        return seal(pack(self.world))

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot, with this environment's own ``image_size`` and ``length``. Raises BadSnapshot."""
        self._world = unpack(unseal(snapshot))
        self._frame = self._status = None

    def _noise(self) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        """The night's noise for a frame of this size, float64 [height, width] from 32 to 127; None by day."""
        world, px = self.world, self._painter.tile_px
        if world.noise is None:
            return None
        if px == _STOCK_TILE_PX:
            drawn = doubles(world.noise, NOISE)
        else:
            # The world's own draws are spoken for; another size has a generator of its own.
            key = [world.seed & 0xFFFFFFFF, world.seed >> 32, world.step, px]
            drawn = np.random.RandomState(key).random_sample(VIEW * px * ROWS * px)
        return (32 + 95 * drawn).reshape(VIEW * px, ROWS * px).T


def _names(world: World) -> list[list[str]]:
    """What each tile in view shows, by name: 7 rows of 9."""
    kinds = window(world)
    return [[_NAMES[kinds[column * ROWS + row]] for column in range(VIEW)] for row in range(ROWS)]


def _plain(sprite: str) -> str:
    """A sprite's name without its direction: only whether a plant is ripe matters."""
    head, _, tail = sprite.rpartition("-")
    return head if tail in (*DIRECTION_NAMES, "sleep") else sprite


_NAMES = (*MATERIALS, *(_plain(sprite) for _ in MATERIALS for sprite in SPRITES))
