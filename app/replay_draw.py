"""How one moment of an episode looks: the picture, and a band of words beneath it. Pillow only; no store, no files.

All sizes follow from the tile's width, so that a larger scale is the same drawing, larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Final

from PIL import Image, ImageDraw, ImageFont

Rgb = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BAND: Final[Rgb] = (22, 24, 29)
TEXT: Final[Rgb] = (238, 240, 244)
MUTED: Final[Rgb] = (150, 156, 168)
GOLD: Final[Rgb] = (250, 196, 60)
RED: Final[Rgb] = (255, 110, 100)
GREY: Final[Rgb] = (92, 96, 104)

MIN_WIDTH: Final = 216
"""Narrowest tile in pixels: below it no caption can be read, whatever the scale."""
RAMP: Final = 10
"""Shades between two colours that soft edges of letters get in a palette."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One moment: what the policy saw, what it did, and what came of it."""

    frame: str | None
    """sha256 of the picture; None when none was stored."""
    title: str
    """Which moment, such as ``turn 12``."""
    says: str
    """What was done."""
    gain: str = ""
    """What it paid, such as ``+1``; empty when it paid nothing."""
    unlocked: tuple[str, ...] = ()
    trouble: str = ""
    """What was wrong with the reply; empty when nothing was."""
    note: str = ""
    """A remark in the last line, where nothing more pressing stands."""
    aside: str = ""
    """A remark about the replay itself, in place of the count."""
    count: int = 0
    """Achievements unlocked so far, this moment included."""
    part: float = 0.0
    """How much of the episode is over, 0 to 1."""


def tile_size(frame_size: tuple[int, int], scale: int) -> tuple[int, int]:
    """Width and height in pixels of a tile for pictures of this native size."""
    width = max(frame_size[0] * scale, MIN_WIDTH)
    return width, frame_size[1] * scale + band_height(width)


def band_height(width: int) -> int:
    """Height in pixels of the band of words beneath a picture, for tiles of this width."""
    return round(6.3 * _em(width))


def in_words(actions: Sequence[str]) -> str:
    """Actions with repeats folded: ``move_left x3, do``."""
    runs = ((name, len(list(run))) for name, run in groupby(actions))
    return ", ".join(f"{name} x{times}" if times > 1 else name for name, times in runs)


def picture(frame: Image.Image | None, frame_size: tuple[int, int], scale: int) -> Image.Image:
    """The upper part of a tile: the frame in hard-edged pixels and its own mode, or a grey field that says it is missing."""
    size = (frame_size[0] * scale, frame_size[1] * scale)
    if frame is not None:
        return frame.resize((frame.width * scale, frame.height * scale), Image.Resampling.NEAREST)
    field = Image.new("RGB", size, GREY)
    words = "frame not stored"
    font = _font_within(words, size[0] * 0.9, size[0] // 10)
    ImageDraw.Draw(field).text((size[0] / 2, size[1] / 2), words, font=font, fill=TEXT, anchor="mm")
    return field


def band(shot: Shot, width: int) -> Image.Image:
    """The lower part of a tile, RGB: title and count, actions, and what came of them."""
    em = _em(width)
    edge = em // 2
    image = Image.new("RGB", (width, band_height(width)), BAND)
    draw = ImageDraw.Draw(image)
    _progress(draw, width, max(2, em // 5), shot.part, GOLD if shot.unlocked else MUTED)
    top = round(0.65 * em)
    count = shot.aside or ("1 achievement" if shot.count == 1 else f"{shot.count} achievements")
    draw.text((edge, top), shot.title, font=_font(em), fill=MUTED)
    draw.text((width - edge, top), count, font=_font(em), fill=GOLD if shot.unlocked else MUTED, anchor="ra")
    _foot(draw, shot, width, em, round(4.75 * em))
    for row, line in enumerate(_wrapped(shot.says, _font(em), width - 2 * edge, 2)):
        draw.text((edge, round((2.0 + 1.25 * row) * em)), line, font=_font(em), fill=TEXT)
    return image


def _foot(draw: ImageDraw.ImageDraw, shot: Shot, width: int, em: int, top: int) -> None:
    """The last line: a badge for an unlock, else what was wrong, else the note; and the gain at the right."""
    edge, font = em // 2, _font(em)
    room = width - 2 * edge
    if shot.gain:
        draw.text((width - edge, top), shot.gain, font=font, fill=GOLD if shot.unlocked else TEXT, anchor="ra")
        room -= round(font.getlength(shot.gain)) + edge
    if shot.unlocked:
        words = _cut(", ".join(shot.unlocked), font, room - em)
        right = edge + round(font.getlength(words)) + em
        box = (edge, top - round(0.15 * em), right, top + round(1.2 * em))
        draw.rounded_rectangle(box, radius=em // 3, fill=GOLD)
        draw.text((edge + em // 2, top), words, font=font, fill=BAND)
    elif shot.trouble or shot.note:
        words = _cut(shot.trouble or shot.note, font, room)
        draw.text((edge, top), words, font=font, fill=RED if shot.trouble else MUTED)


def _progress(draw: ImageDraw.ImageDraw, width: int, height: int, part: float, color: Rgb) -> None:
    draw.rectangle((0, 0, width, height - 1), fill=(48, 52, 60))
    if filled := round(width * min(part, 1.0)):
        draw.rectangle((0, 0, filled - 1, height - 1), fill=color)


def _wrapped(text: str, font: Font, room: float, most: int) -> list[str]:
    """Text in at most ``most`` lines, broken at blanks; what does not fit ends in three dots."""
    lines, words = [""], text.split()
    for i, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= room or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {' '.join(words[i:])}"
            break
    return [_cut(line, font, room) for line in lines]


def _cut(text: str, font: Font, room: float) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text.rstrip(" ,") + "..."


def _em(width: int) -> int:
    return max(11, width // 14)


@lru_cache(maxsize=16)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _font_within(words: str, room: float, size: int) -> Font:
    while size > 6 and _font(size).getlength(words) > room:
        size -= 1
    return _font(size)


def ramps() -> list[Rgb]:
    """Every colour that a band of words needs: its colours, and the shades of soft edges between them."""
    pairs = [(BAND, TEXT), (BAND, MUTED), (BAND, GOLD), (BAND, RED), (GREY, TEXT)]
    shades = [_between(a, b, step / (RAMP - 1)) for a, b in pairs for step in range(RAMP)]
    return list(dict.fromkeys([*shades, (48, 52, 60)]))


def _between(a: Rgb, b: Rgb, part: float) -> Rgb:
    red, green, blue = (round(x + (y - x) * part) for x, y in zip(a, b, strict=True))
    return red, green, blue


def heading(image: Image.Image, left: str, right: str, edge: int, em: int) -> None:
    """A title line at the top of a sheet of tiles."""
    draw, font = ImageDraw.Draw(image), _font(max(11, em))
    draw.text((image.width - edge, edge), right, font=font, fill=MUTED, anchor="ra")
    room = image.width - 3 * edge - font.getlength(right)
    draw.text((edge, edge), _cut(left, font, room), font=font, fill=TEXT)
