"""Frames as PNG bytes and back, and the one rule by which a frame is made larger. Pure functions, no environment.

Engine and trainer enlarge the same stored frame by the same rule, named by a version that never changes its meaning; so a
model meets in training the very pixels that it met in play. docs/decisions/0005-frame-sizes.md tells why.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import BadFrame, InvalidInput

Pixels = NDArray[np.uint8]
"""[height, width, 3] in RGB."""

UPSCALING = 1
"""The newest version of the upscaling rule."""
LARGEST_PX = 4096
"""Most pixels along a side that ``decode_png`` takes and ``upscale`` gives."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LEVEL = 6
"""Tiles repeat, so plain rows pack better and faster than filtered ones: 0.1 to 0.2 ms for 64 pixels, 1 to 7 KB."""


def encode_png(pixels: Pixels) -> bytes:
    """A frame as PNG, from uint8 [height, width, 3]. The same pixels give the same bytes, given the same zlib."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InvalidInput(f"a frame is uint8 [height, width, 3], not {pixels.dtype} {list(pixels.shape)}")
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = pixels.reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), _LEVEL)
    return b"".join((_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b"")))


def decode_png(png: bytes) -> Pixels:
    """The frame in PNG bytes: uint8 [height, width, 3]. Raises BadFrame for anything but a whole 8-bit RGB PNG."""
    if not png.startswith(_SIGNATURE):
        raise BadFrame(f"the frame begins with {png[:8]!r}, which is no PNG")
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.mode != "RGB":
                raise BadFrame(f"the frame's colours are {image.mode!r}; a frame is 8-bit RGB")
            if max(image.size) > LARGEST_PX:
                raise BadFrame(f"the frame has {image.size[0]} x {image.size[1]} pixels; the most is {LARGEST_PX} a side")
            return np.array(image)
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise BadFrame(f"the frame is a damaged PNG ({error})") from error


def upscale(pixels: Pixels, to_px: int, *, tiles: int = 1, version: int = UPSCALING) -> Pixels:
    """A square frame with ``to_px`` pixels along each side, by nearest neighbour: uint8 [to_px, to_px, 3].

    Version 1: a frame that has ``to_px`` already stays as it is. From another, the margin beyond whole tiles is cut first:
    of a side of ``n`` pixels, ``n % tiles`` go, half of them (rounded down) at the top and the left. Then pixel ``i`` of the
    result is pixel ``i * side // to_px`` of what is left, in both directions. ``tiles`` is how many tiles lie along a side;
    with it every tile gets the same share of a result that is a multiple of it. Crafter has 9; 1 cuts nothing.

    Raises InvalidInput for another version, a frame that is not square, and sizes that would make it smaller.
    """
    if version != UPSCALING:
        raise InvalidInput(f"upscaling version {version} is not known; there is version {UPSCALING}")
    height, width = pixels.shape[:2]
    if height != width:
        raise InvalidInput(f"a frame of {width} x {height} pixels is not square; only square frames are enlarged")
    if not height <= to_px <= LARGEST_PX:
        raise InvalidInput(f"a frame of {height} pixels becomes {height} to {LARGEST_PX} pixels, not {to_px}")
    if not 1 <= tiles <= height:
        raise InvalidInput(f"a frame of {height} pixels has 1 to {height} tiles along a side, not {tiles}")
    if to_px == height:
        return pixels
    margin = height % tiles
    start, side = margin // 2, height - margin
    source = start + np.arange(to_px) * side // to_px
    return np.ascontiguousarray(pixels[source][:, source])


def enlarged(png: bytes, to_px: int | None, *, tiles: int = 1) -> bytes:
    """The PNG that a model is shown of a stored frame: after ``upscale``, or with None the very bytes. Raises as the two do."""
    return png if to_px is None else encode_png(upscale(decode_png(png), to_px, tiles=tiles))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
