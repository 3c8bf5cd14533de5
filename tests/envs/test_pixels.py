"""Frames as bytes, and made larger."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import BadFrame, InvalidInput
from workers.rollout.envs.crafter import Crafter
from workers.transport.pixels import decode_png, encode_png, upscale


def noise(side: int, seed: int = 0, width: int | None = None) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (side, width or side, 3)).astype(np.uint8)


@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_png_keeps_every_pixel(height: int, width: int, seed: int) -> None:
    pixels = noise(height, seed, width)
    png = encode_png(pixels)
    assert np.array_equal(decode_png(png), pixels)
    assert np.array_equal(np.array(Image.open(io.BytesIO(png))), pixels)
    assert encode_png(pixels.copy(order="F")) == png


def other_png(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_a_png_of_other_colours_is_refused(mode: str) -> None:
    with pytest.raises(BadFrame, match="8-bit RGB"):
        decode_png(other_png(mode))


def test_damaged_bytes_are_refused() -> None:
    png = encode_png(noise(16))
    for bad in (b"", b"GIF89a", png[:20], png[:-30], png[:60] + b"\0\0\0" + png[63:]):
        with pytest.raises(BadFrame):
            decode_png(bad)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_frame_is_not_encoded(pixels: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="a frame is uint8"):
        encode_png(pixels)


@given(st.integers(1, 60), st.integers(0, 200), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_an_enlarged_frame_is_its_nearest_pixels(side: int, more: int, tiles: int) -> None:
    tiles = min(tiles, side)
    pixels, to = noise(side), side + more
    large = upscale(pixels, to, tiles=tiles)
    assert large.shape == (to, to, 3)
    margin = 0 if more == 0 else side % tiles
    kept = pixels[margin // 2 :][: side - margin, margin // 2 :][:, : side - margin]
    for i, j in ((0, 0), (to - 1, to - 1), (to // 2, to // 3)):
        assert np.array_equal(large[i, j], kept[i * len(kept) // to, j * len(kept) // to])
    assert np.array_equal(np.unique(large), np.unique(kept))


def test_a_multiple_repeats_pixels() -> None:
    pixels = noise(144)
    assert np.array_equal(upscale(pixels, 288, tiles=9), pixels.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("size", [63, 64, 70, 144])
def test_every_tile_of_crafter_fills_its_own_square_of_288_pixels(size: int) -> None:
    env = Crafter(image_size=size)
    env.reset(3)
    frame = env.frame()
    large = upscale(frame, 288, tiles=Crafter.tiles)
    tile, border = size // 9, size % 9 // 2
    for row in range(9):
        for column in range(9):
            y, x = border + row * tile, border + column * tile
            part = large[row * 32 :, column * 32 :][:32, :32]
            assert np.array_equal(part, upscale(frame[y : y + tile, x : x + tile], 32))


def test_a_frame_of_the_right_size_stays_as_it_is() -> None:
    pixels = noise(64)
    assert np.array_equal(upscale(pixels, 64, tiles=9), pixels)


def test_the_rule_of_version_1_never_changes() -> None:
    pixels = np.arange(5 * 5 * 3, dtype=np.uint8).reshape(5, 5, 3)
    assert upscale(pixels, 7, version=1)[:, 0, 0].tolist() == [0, 0, 15, 30, 30, 45, 60]
    assert upscale(pixels, 8, tiles=2, version=1)[0, :, 0].tolist() == [0, 0, 3, 3, 6, 6, 9, 9]


@pytest.mark.parametrize(
    ("side", "width", "to", "more", "tells"),
    [
        (64, 64, 63, {}, "not 63"),
        (64, 64, 5000, {}, "not 5000"),
        (64, 32, 128, {}, "not square"),
        (64, 64, 128, {"version": 2}, "version 2"),
        (64, 64, 128, {"tiles": 0}, "not 0"),
    ],
)
def test_what_cannot_be_enlarged_is_refused(side: int, width: int, to: int, more: dict[str, int], tells: str) -> None:
    with pytest.raises(InvalidInput, match=tells):
        upscale(noise(side, width=width), to, **more)
