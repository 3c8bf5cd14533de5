"""The pictures of the `crafter` package at any tile size, read from its files without importing it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from app.errors import NotHere
from workers.rollout.envs.base import Pixels


@cache
def _folder() -> Path:
    spec = importlib.util.find_spec("crafter")
    if spec is None or not spec.submodule_search_locations:
        raise NotHere("the pictures of the game come with the package crafter 1.8.3, which is not installed")
    return Path(spec.submodule_search_locations[0]) / "assets"


@cache
def _original(name: str) -> Pixels:
    with Image.open(_folder() / f"{name}.png") as image:
        return np.asarray(image)


def texture(name: str, px: int) -> Pixels:
    """A picture with this side in pixels: uint8 [px, px, 3], or [px, px, 4] with transparency."""
    original = _original(name)
    if original.shape[:2] == (px, px):
        return original
    # Stock Crafter resizes transposed pictures; nearest neighbour makes no difference of it.
    return np.asarray(Image.fromarray(original).resize((px, px), resample=Image.Resampling.NEAREST))


def over(ground: Pixels, picture: Pixels) -> Pixels:
    """A picture laid over ground of the same size, in stock Crafter's arithmetic: uint8 [px, px, 3]."""
    if picture.shape[-1] != 4:
        return picture
    alpha = picture[..., 3:].astype(np.float32) / 255
    colour = picture[..., :3].astype(np.float32) / 255
    blended = alpha * colour + (1 - alpha) * (ground.astype(np.float32) / 255)
    result: Pixels = (255 * blended).astype(np.uint8)
    return result
