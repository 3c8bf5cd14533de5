"""What an ``image_url`` holds: every byte decoded, every pixel looked at."""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from PIL import Image

from app.dataset.source import kind

MEDIA: Final = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
MOST_BYTES: Final = 10_000_000
"""OpenAI's 10 MB, in the meaning that is safe under every reading of it."""
MOST_PX: Final = 4096
"""Most pixels along a side of a picture that synthq trains on."""
MOST_STRETCHED: Final = 200
"""Longest side over the shortest; the Qwen family's image processor takes no more."""

_DATA = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
PNG_END: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_BEGINNINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
)
_BARE: Final = {"iVBORw0KGgo": "image/png", "/9j/": "image/jpeg", "UklGR": "image/webp"}
"""How base64 of the three formats begins."""


class Unfit(Exception):
    """A picture that is none, or not one that may be here; the text says why, and goes on from "the picture"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that was decoded. ``linked``: only its address is known, and nothing was looked at."""

    format: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    data: bytes = b""
    linked: bool = False


def look(url: object, *, strict: bool) -> Picture:
    """The picture behind the ``url`` of an image part. Raises Unfit.

    ``strict`` is synthq's own view: pictures are inline, one frame each, and of a size that a model takes.
    """
    if not isinstance(url, str):
        raise Unfit(f"is {kind(url)}; it must be a text such as 'data:image/png;base64,...'")
    if not url.strip():
        raise Unfit(f"is {'blank' if url else 'empty'}; it must be a text such as 'data:image/png;base64,...'")
    match = _SCHEME.match(url)
    scheme = match[1].lower() if match else ""
    if scheme == "data":
        return _decoded(*unpack(url), strict=strict)
    if scheme in ("http", "https"):
        return _link(url, strict=strict)
    raise Unfit(_no_scheme(url) if not scheme or len(scheme) == 1 else _other_scheme(scheme, strict))


def _no_scheme(url: str) -> str:
    bare = next((media for start, media in _BARE.items() if url.startswith(start)), None)
    if bare:
        return f"is bare base64; put 'data:{bare};base64,' before it"
    return f"is {url[:40]!r}, which is no URL; put the picture's bytes here as 'data:image/png;base64,...'"


def _other_scheme(scheme: str, strict: bool) -> str:
    allowed = "'data:image/png;base64,...' and its like" if strict else "data:, http: and https:"
    return f"has the scheme {scheme[:20]!r}; only {allowed} may be here"


def _link(url: str, *, strict: bool) -> Picture:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host or any(c.isspace() for c in url):
        raise Unfit(f"is {url[:60]!r}, which names no host")
    if strict:
        raise Unfit(
            f"is a link to {host[:60]!r}; nothing is fetched in training; put the picture here as 'data:image/png;base64,...'"
        )
    return Picture(linked=True)


def unpack(url: str) -> tuple[str, bytes]:
    """Media type and bytes of a ``data:`` URL, not decoded further. Raises Unfit."""
    match = _DATA.match(url)
    if match is None:
        raise Unfit(f"is {url[:40]!r}, which has no comma after its media type; it begins 'data:image/png;base64,'")
    media, parameters = match[1].lower(), match[2].lower()
    if media not in MEDIA:
        named = f"the media type {media[:40]!r}" if media else "no media type"
        raise Unfit(f"has {named}; a picture is one of {', '.join(MEDIA)}")
    if not parameters.endswith(";base64"):
        raise Unfit(f"is not marked as base64; it begins 'data:{media};base64,'")
    try:
        return media, base64.b64decode(url[match.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Unfit(f"holds what is not base64: {_why_not_base64(url[match.end() :], error)}") from None


def _why_not_base64(text: str, error: Exception) -> str:
    wrong = re.search(r"[^A-Za-z0-9+/=]", text)
    if wrong:
        return f"{wrong[0]!r} at its character {wrong.start() + 1}"
    return "its length is no multiple of four, so it may have been cut" if len(text) % 4 else str(error).lower()


def _decoded(media: str, data: bytes, *, strict: bool) -> Picture:
    if not data:
        raise Unfit("holds no bytes after its comma")
    if len(data) > MOST_BYTES:
        raise Unfit(f"holds {len(data)} bytes; the most for a picture is 10 MB ({MOST_BYTES} bytes)")
    found = _format_of(data)
    if found not in MEDIA.values():
        begins = f"begins like {found}" if found else f"begins with {data[:8]!r}, as no picture does"
        raise Unfit(f"says {media}, and its data {begins}; a picture is PNG, JPEG or WEBP")
    if found != MEDIA[media]:
        right = next(name for name, format in MEDIA.items() if format == found)
        raise Unfit(f"says {media}, and its data is {found}; write {right}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=(found,)) as image:
                return _checked(image, found, data, strict=strict)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unfit(f"holds a {found} of more than {Image.MAX_IMAGE_PIXELS} pixels, too large to be decoded here") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise Unfit(f"holds a damaged {found} ({_short(error)})") from None


def _short(error: Exception) -> str:
    """pillow's words, without the address of a buffer."""
    return "its header cannot be read" if isinstance(error, Image.UnidentifiedImageError) else str(error).lower() or "unreadable"


def _format_of(data: bytes) -> str | None:
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for start, name in _BEGINNINGS if data.startswith(start)), None)


def _checked(image: Image.Image, found: str, data: bytes, *, strict: bool) -> Picture:
    width, height = image.size
    if image.mode not in ("RGB", "RGBA"):
        raise Unfit(f"holds a {found} with the colours {image.mode!r}; a picture is RGB or RGBA")
    if strict:
        if max(width, height) > MOST_PX:
            raise Unfit(f"holds a {found} of {width} x {height} pixels; the most is {MOST_PX} a side")
        if max(width, height) > MOST_STRETCHED * min(width, height):
            raise Unfit(
                f"holds a {found} of {width} x {height} pixels; the longer side is {MOST_STRETCHED} times the other at most"
            )
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
            raise Unfit(f"holds a {found} of {frames} frames; a picture is one")
    image.load()
    if found == "PNG" and PNG_END not in data:  # pillow is content with all rows
        raise Unfit("holds a damaged PNG (it ends before its end mark)")
    return Picture(format=found, width=width, height=height, mode=image.mode, data=data)
