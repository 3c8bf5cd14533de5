"""From the bytes of a picture to what the vision tower reads. No torch, no transformers: numpy and Pillow alone.

Engine and trainer read every picture here, so both see the same numbers: bit for bit those that transformers' image processor of
the Qwen2-VL family (the one without torchvision) gives for the same ``preprocessor_config.json``; tests hold it to that.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app.dataset.images import MEDIA, MOST_BYTES, MOST_PX, MOST_STRETCHED, PNG_END
from app.errors import InvalidInput
from app.geometry import read_size
from app.model_folder import image_processor
from workers.model.cache import Cache
from workers.model.types import Picture

CACHE_BYTES: Final = 256 * 1024**2
_FORMATS: Final = tuple(MEDIA.values())
_CLIP: Final = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_UNREADABLE: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


class ImageReader:
    """Reads pictures for one model. Safe between threads."""

    def __init__(
        self,
        *,
        patch: int,
        merge: int,
        temporal: int,
        min_pixels: int,
        max_pixels: int,
        mean: Sequence[float],
        std: Sequence[float],
        rescale: float | None = 1 / 255,
        resize: bool = True,
        normalize: bool = True,
        resample: int = Image.Resampling.BICUBIC,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """``patch``: pixels along a side; ``merge``: patches along a side that become one token; ``temporal``: how often each
        frame stands in a patch; ``min_pixels`` and ``max_pixels``: areas; ``rescale``: factor of a value 0 to 255, None: none.
        """
        self.patch, self.merge, self.temporal = patch, merge, temporal
        self.min_pixels, self.max_pixels = min_pixels, max_pixels
        self.resize, self.resample = resize, Image.Resampling(resample)
        self.cache: Cache[bytes, Picture] = Cache(cache_bytes)
        self._values = _values(mean, std, rescale, normalize)

    @classmethod
    def of(cls, folder: Path, *, cache_bytes: int = CACHE_BYTES) -> ImageReader:
        """The reader that a model folder's ``preprocessor_config.json`` describes. Raises BadModel, InvalidInput."""
        return cls.described(image_processor(folder), cache_bytes=cache_bytes)

    @classmethod
    def described(cls, config: Mapping[str, Any], *, cache_bytes: int = CACHE_BYTES) -> ImageReader:
        """The reader that a ``preprocessor_config.json`` describes; what it leaves out is as the Qwen2-VL family has it."""
        kind = str(config.get("image_processor_type") or "Qwen2VLImageProcessor")
        if not kind.startswith("Qwen2VLImageProcessor"):
            raise InvalidInput(f"image_processor_type is {kind!r}; only the Qwen-VL family's, 'Qwen2VLImageProcessor', is read")
        if config.get("do_convert_rgb") is False:
            raise InvalidInput("do_convert_rgb is false; pictures are always read as RGB")
        size = config.get("size") or {}
        try:
            return cls(
                patch=int(config.get("patch_size", 14)),
                merge=int(config.get("merge_size", 2)),
                temporal=int(config.get("temporal_patch_size", 2)),
                min_pixels=int(config.get("min_pixels") or size.get("shortest_edge") or 56 * 56),
                max_pixels=int(config.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280),
                mean=config.get("image_mean") or _CLIP["mean"],
                std=config.get("image_std") or _CLIP["std"],
                rescale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else None,
                resize=bool(config.get("do_resize", True)),
                normalize=bool(config.get("do_normalize", True)),
                resample=int(config.get("resample", Image.Resampling.BICUBIC)),
                cache_bytes=cache_bytes,
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(f"preprocessor_config.json describes no image processor: {error}") from error

    def read(self, data: bytes, *, max_tokens: int | None = None) -> Picture:
        """A picture from the bytes of a PNG, JPEG or WEBP file. Its array is shared and cannot be written.

        Raises InvalidInput for bytes that are no whole picture of one frame, and for one of a size that no model takes, or of
        more tokens than ``max_tokens``.
        """
        name = sha256(data)
        if (held := self.cache.get(name.digest())) is not None:
            return held
        pixels = self._fitted(decode(data), max_tokens)
        patches = self._patches(pixels)
        patches.flags.writeable = False
        grid = (1, pixels.shape[0] // self.patch, pixels.shape[1] // self.patch)
        picture = Picture(sha256=name.hexdigest(), grid=grid, make=lambda: patches)
        self.cache.put(name.digest(), picture, patches.nbytes)
        return picture

    def tokens(self, picture: Picture) -> int:
        """How many tokens a picture has in a prompt."""
        return picture.tokens(self.merge)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels at which a picture of this size is read."""
        if not self.resize:
            return width, height
        return read_size(width, height, step=self.patch * self.merge, min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    def _fitted(self, image: Image.Image, max_tokens: int | None) -> NDArray[np.uint8]:
        """uint8 [height, width, 3], a whole number of tokens along each side."""
        to, step = self.size(*image.size), self.patch * self.merge
        tokens = to[0] // step * (to[1] // step)
        if max_tokens is not None and tokens > max_tokens:  # told before its patches, many times its size, are made
            raise InvalidInput(f"the picture is {tokens} tokens at {to[0]} x {to[1]} pixels; there is room for {max_tokens}")
        if to != image.size:
            image = image.resize(to, self.resample)
        if to[0] % step or to[1] % step or 0 in to:
            raise InvalidInput(
                f"the picture has {to[0]} x {to[1]} pixels; this model does not resize, so each side must be a multiple of {step}"
            )
        return np.asarray(image)

    def _patches(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[patches, 3 * temporal * patch * patch]: patches that become one token stand together, each channel by channel."""
        patch, merge = self.patch, self.merge
        high, wide = pixels.shape[0] // (patch * merge), pixels.shape[1] // (patch * merge)
        blocks = pixels.reshape(high, merge, patch, wide, merge, patch, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        told = np.empty((high, wide, merge, merge, 3, self.temporal, patch, patch), np.float32)
        for channel in range(3):
            told[:, :, :, :, channel] = self._values[channel][blocks[:, :, :, :, channel]][:, :, :, :, None]
        return told.reshape(high * wide * merge * merge, 3 * self.temporal * patch * patch)


def decode(data: bytes) -> Image.Image:
    """The picture in the bytes of a PNG, JPEG or WEBP file, in RGB, whatever is transparent on white. Raises InvalidInput."""
    if not data:
        raise InvalidInput("the picture has no bytes")
    if len(data) > MOST_BYTES:
        raise InvalidInput(f"the picture has {len(data)} bytes; the most is {MOST_BYTES}")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image)
            image.load()
            if image.format == "PNG" and PNG_END not in data:  # Pillow is content with all rows
                raise InvalidInput("the picture is damaged: it ends before its end mark")
            return _rgb(image)
    except Image.DecompressionBombError:
        raise InvalidInput(f"the picture has far more than {MOST_PX} pixels a side, which is the most") from None
    except Image.UnidentifiedImageError:
        raise InvalidInput(f"the picture begins with {data[:8]!r}; it must be one of {', '.join(_FORMATS)}") from None
    except _UNREADABLE as error:
        raise InvalidInput(f"the picture is damaged: {error}") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if max(width, height) > MOST_PX:
        raise InvalidInput(f"the picture has {width} x {height} pixels; the most is {MOST_PX} a side")
    if max(width, height) > MOST_STRETCHED * min(width, height):
        raise InvalidInput(f"the picture has {width} x {height} pixels; one side is at most {MOST_STRETCHED} times the other")
    if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
        raise InvalidInput(f"the picture has {frames} frames; a picture is one")


def _rgb(image: Image.Image) -> Image.Image:
    if image.format != "PNG" or "exif" in image.info:  # a camera may store a picture turned, and says so there
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    return image.convert("RGB")


def _values(mean: Sequence[float], std: Sequence[float], rescale: float | None, normalize: bool) -> NDArray[np.float32]:
    """[3, 256]: what each channel's value 0 to 255 becomes, rounded where the family's processor rounds it."""
    if len(mean) != 3 or len(std) != 3 or 0 in std:
        raise InvalidInput(f"image_mean and image_std must hold three numbers each, none of std 0, not {mean!r} and {std!r}")
    scaled = np.arange(256, dtype=np.float64)
    if rescale is not None:
        scaled = scaled * rescale
    values = np.broadcast_to(scaled.astype(np.float32), (3, 256))
    if not normalize:
        return np.ascontiguousarray(values)
    return (values - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]
