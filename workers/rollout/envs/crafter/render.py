"""The picture of a world, of any size, equal to stock Crafter's bit for bit: tiles from an atlas, lit before they are laid.

A tile looks the same wherever it lies, by day: so light is worked out for the few kinds of tile in view, not for each pixel.
Only the noise of the night needs the pixels themselves.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from workers.rollout.envs.base import Pixels
from workers.rollout.envs.crafter import light
from workers.rollout.envs.crafter.tables import ITEMS, MATERIALS, OUTSIDE, SPRITES
from workers.rollout.envs.crafter.textures import over, texture
from workers.rollout.envs.crafter.world import STRIDE, World, cell

VIEW = 9
"""Tiles along each side of the picture: 9x7 of the map, and two rows of inventory below."""
ROWS = 7
_BEYOND = 127
"""The grey beyond the map."""


def window(world: World) -> bytearray:
    """What each tile in view shows, x before y: material numbers, or 13 + 14 * material + sprite where something stands."""
    corner = cell(world.player.x - VIEW // 2, world.player.y - ROWS // 2)
    starts = range(corner, corner + VIEW * STRIDE, STRIDE)
    kinds = bytearray().join([world.materials[start : start + ROWS] for start in starts])
    for column, start in enumerate(starts):
        standing = world.standing[start : start + ROWS]
        if any(standing):
            for row, thing in enumerate(standing, column * ROWS):
                if thing is not None:
                    kinds[row] = len(MATERIALS) + len(SPRITES) * kinds[row] + thing.sprite
    return kinds


class Painter:
    """Pictures of one size. Shared by every world of that size."""

    def __init__(self, size_px: int) -> None:
        self.size_px = size_px
        self.tile_px = size_px // VIEW
        self._border = (size_px - self.tile_px * VIEW) // 2
        self._tiles = self._atlas()
        dark = np.stack([light.tinted(tile.astype(np.int32)) for tile in self._tiles])
        self._days, self._nights = (tiles.transpose(0, 2, 3, 1).astype(np.float64) for tiles in (self._tiles, dark))
        self._strips: dict[tuple[int, ...], Pixels] = {}

    def paint(self, world: World, noise: light.Floats | None) -> Pixels:
        """The picture: uint8 [size, size, 3], read-only. ``noise`` is [height, width] of the map's part, None by day."""
        kinds = window(world)
        asleep = world.player.sleeping
        view = self._day(kinds, world.daylight, asleep) if noise is None else self._night(kinds, world, noise)
        px, start = self.tile_px, self._border
        picture = np.zeros((self.size_px, self.size_px, 3), np.uint8)
        middle, stop, right = start + ROWS * px, start + VIEW * px, start + VIEW * px
        picture[start:middle, start:right] = view
        picture[middle:stop, start:right] = self._strip(tuple(world.player.inventory.values()))
        picture.flags.writeable = False
        return picture

    def _day(self, kinds: bytearray, daylight: float, asleep: bool) -> Pixels:
        """The map's part by day: uint8 [height, width, 3]."""
        seen = list(set(kinds))
        number = bytearray(256)
        for i, kind in enumerate(seen):
            number[kind] = i
        lit = (daylight * self._days[seen] + (1 - daylight) * self._nights[seen]).astype(np.uint8)
        if asleep:
            lit = np.moveaxis(light.asleep(np.moveaxis(lit, 3, 0)), 0, 3)
        px = self.tile_px
        laid = lit[np.frombuffer(kinds.translate(number), np.uint8)].reshape(VIEW, ROWS, px, px * 3)
        return laid.transpose(1, 2, 0, 3).reshape(ROWS * px, VIEW * px, 3)

    def _night(self, kinds: bytearray, world: World, noise: light.Floats) -> Pixels:
        """The map's part by night: uint8 [height, width, 3]."""
        px = self.tile_px
        laid = self._tiles[np.frombuffer(kinds, np.uint8)].reshape(VIEW, ROWS, 3, px, px)
        planes = laid.transpose(2, 1, 3, 0, 4).reshape(3, ROWS * px, VIEW * px)
        view = light.by_night(planes, world.daylight, noise)
        if world.player.sleeping:
            view = light.asleep(view)
        pixels = np.empty((*view.shape[1:], 3), np.uint8)
        for channel, plane in enumerate(view):  # six times as fast as one transposed copy
            pixels[..., channel] = plane
        return pixels

    def _atlas(self) -> Pixels:
        """Every kind of tile: uint8 [kind, 3, px, px]."""
        px = self.tile_px
        grounds = [np.full((px, px, 3), _BEYOND, np.uint8)]
        grounds += [texture(name, px)[..., :3] for name in MATERIALS if name != OUTSIDE]
        sprites = [texture(name, px) for name in SPRITES]
        tiles = [*grounds, *(over(ground, sprite) for ground in grounds for sprite in sprites)]
        return np.ascontiguousarray(np.stack(tiles).transpose(0, 3, 1, 2))

    def _strip(self, amounts: tuple[int, ...]) -> Pixels:
        """The inventory: uint8 [2 tiles, 9 tiles, 3]."""
        strip = self._strips.get(amounts)
        if strip is None:
            if len(self._strips) > 4096:
                self._strips.clear()
            strip = self._strips[amounts] = self._draw_strip(amounts)
        return strip

    def _draw_strip(self, amounts: tuple[int, ...]) -> Pixels:
        px = self.tile_px
        strip = np.zeros(((VIEW - ROWS) * px, VIEW * px, 3), np.uint8)
        for slot, (item, amount) in enumerate(zip(ITEMS, amounts, strict=True)):
            if amount >= 1:
                row, column = divmod(slot, VIEW)
                for name, offset, share in ((item, 0.1, 0.8), (str(amount), 0.4, 0.6)):
                    side = int(share * px)
                    if side == 0:
                        continue  # at 1 pixel a tile there is no room for it, and stock Crafter cannot draw at all
                    x, y = int(column * px + offset * px), int(row * px + offset * px)
                    part = strip[y : y + side, x : x + side]
                    part[:] = over(part, texture(name, side))
        return strip


@cache
def painter(size_px: int) -> Painter:
    """The painter of pictures with this side in pixels."""
    return Painter(size_px)
