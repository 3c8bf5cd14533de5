"""Is this a frame as the store keeps them: a whole 8-bit RGB PNG? For what checks or brings in bytes that it did not make."""

from __future__ import annotations

import io
import zlib
from typing import Final

from PIL import Image

from app.errors import BadFrame

LARGEST_PX: Final = 4096
"""Most pixels along a side."""


def measure(png: bytes) -> tuple[int, int]:
    """(width, height) in pixels, after every pixel was decoded. Raises BadFrame for anything but a whole 8-bit RGB PNG."""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.mode != "RGB":
                raise BadFrame(f"its colours are {image.mode!r}; a frame is 8-bit RGB")
            if max(image.size) > LARGEST_PX:
                raise BadFrame(f"it has {image.size[0]} x {image.size[1]} pixels; the most is {LARGEST_PX} a side")
            size = image.size
            image.load()
        with Image.open(io.BytesIO(png), formats=("PNG",)) as again:
            again.verify()  # every chunk to the last: without it a picture may end too soon and look whole
        return size
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise BadFrame(f"it is no whole PNG ({error})") from error
