"""Daylight, night and sleep as colours: stock Crafter's arithmetic, bit for bit.

What Pillow does for it (`ImageEnhance.Color`) is integer and float32 arithmetic on single pixels, so it needs no image here.
Arrays have the channel first: [3, ...].
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

_NIGHT = np.array([0.0, 16.0, 64.0]) * 0.5
_SLEEP = np.array([0.0, 0.0, 16.0]) * 0.5
_COLOUR = np.float32(0.4)
"""How much colour is left at night."""


def grey(colour: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Pillow's luminance: int32 [3, ...] to [...]."""
    grey: npt.NDArray[np.int32] = (colour[0] * 19595 + colour[1] * 38470 + colour[2] * 7471 + 0x8000) >> 16
    return grey


def fade(colour: npt.NDArray[np.int32]) -> Bytes:
    """Pillow's blend of the grey and the colour, 0.4 of the latter: int32 [3, ...] to uint8."""
    base = grey(colour)
    mixed = (colour - base).astype(np.float32)
    mixed *= _COLOUR
    mixed += base.astype(np.float32)
    return mixed.astype(np.uint8)


def tinted(colour: npt.NDArray[np.int32]) -> Floats:
    """The night's colours: float64 [3, ...]."""
    return 0.5 * fade(colour) + _NIGHT.reshape(3, *[1] * (colour.ndim - 1))


def asleep(colour: Bytes) -> Bytes:
    """What a sleeper sees: uint8 [3, ...]."""
    seen = 0.5 * grey(colour.astype(np.int32)) + _SLEEP.reshape(3, *[1] * (colour.ndim - 1))
    return seen.astype(np.uint8)


@cache
def vignette(width: int, height: int) -> Floats:
    """How strong the night's noise is: 0 at the centre, near 1 at the rim; float64 [height, width]."""
    xs, ys = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    strength: Floats = 1 - np.exp(-0.5 * (xs**2 + ys**2) / (0.5**2))
    return strength


def by_night(colour: Bytes, daylight: float, noise: Floats) -> Bytes:
    """A picture in the dark, with noise: uint8 [3, height, width]. ``noise`` is [height, width], 32 to 127."""
    ground = colour.astype(np.float64)
    strength = 2 * (0.5 - daylight) * vignette(colour.shape[2], colour.shape[1])
    noisy = (1 - strength) * ground
    noisy += strength * noise
    dark = tinted(noisy.astype(np.int32))
    dark *= 1 - daylight
    ground *= daylight
    ground += dark
    return ground.astype(np.uint8)
