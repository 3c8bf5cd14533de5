"""An episode as a picture: a GIF that plays it, or a PNG that shows its turning points. Made from the store alone.

Equal traces give equal bytes. How large a picture gets is bounded by showing fewer turns; turns that unlock something always
stay.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from typing import Final

from PIL import Image, ImageDraw, UnidentifiedImageError
from sqlalchemy.orm import load_only
from sqlmodel import Session, col, select

from app import replay_draw
from app.errors import BadFlag, TraceNotFound, UnknownName
from app.models import Episode, FrameRow, TurnRow
from app.records import Outcome
from app.replay_draw import Shot

FORMATS: Final = ("gif", "png")
MAX_SCALE: Final = 16
MAX_FPS: Final = 50
"""Viewers slow a GIF down when its frames are shorter than 20 ms."""
GIF_TURNS: Final = 400
"""Turns that a GIF shows unless it is told otherwise."""
GIF_PIXELS: Final = 150_000_000
"""Most pixels of a whole GIF, over all its frames: bounds memory and file."""
SHEET_TILES: Final = 24
SHEET_COLUMNS: Final = 3
"""Three tiles abreast can be read on a telephone held upright."""
SHEET_PIXELS: Final = 60_000_000
FRAME_COLORS: Final = 200
"""Colours of a GIF frame that the picture gets; the words have the others."""
UNLOCK_MS: Final = 900
END_MS: Final = 2500
"""How long a GIF stays, at the least, on a turn that unlocks something, and on the end."""
TURN_COLUMNS: Final = ("index", "frame", "actions", "reward", "unlocked", "outcome", "detail")
NO_FRAME_SIZE: Final = (64, 64)
"""Tile size for an episode of which no frame at all is stored."""


def render(
    session: Session,
    episode_id: str,
    *,
    format: str = "gif",
    scale: int = 4,
    fps: int = 8,
    max_turns: int | None = None,
) -> bytes:
    """The episode as GIF or PNG bytes.

    ``scale`` screen pixels for a frame's pixel, 1 to 16; ``fps`` turns a second in a GIF, 1 to 50; ``max_turns`` the most turns
    shown (400 in a GIF, 24 in a PNG unless given). Raises TraceNotFound, UnknownName for a format, BadFlag for a number that
    does not fit.
    """
    _check(format, scale, fps, max_turns)
    episode = session.get(Episode, episode_id)
    if episode is None:
        raise TraceNotFound(episode_id)
    turns = _turns(session, episode_id)
    size = _frame_size(session, [*(turn.frame for turn in turns), episode.last_frame])
    if format == "png":
        return _sheet(session, episode, turns, size, scale, max_turns or SHEET_TILES)
    return _gif(session, episode, turns, size, scale, fps, max_turns or GIF_TURNS)


def _check(format: str, scale: int, fps: int, max_turns: int | None) -> None:
    if format not in FORMATS:
        raise UnknownName("replay format", format, FORMATS)
    for name, value, most in (("scale", scale, MAX_SCALE), ("fps", fps, MAX_FPS)):
        if not 1 <= value <= most:
            raise BadFlag(f"{name}={value} must be 1 to {most}")
    if max_turns is not None and max_turns < 1:
        raise BadFlag(f"max_turns={max_turns} must be 1 or more")


def _turns(session: Session, episode_id: str) -> Sequence[TurnRow]:
    """The turns in order, without their prompts, which are most of their bytes."""
    shown = load_only(*(getattr(TurnRow, name) for name in TURN_COLUMNS), raiseload=True)
    return session.exec(select(TurnRow).where(TurnRow.episode_id == episode_id).order_by(col(TurnRow.index)).options(shown)).all()


def _frame_size(session: Session, frames: Sequence[str | None]) -> tuple[int, int]:
    """Width and height of the first stored frame: an episode has one size."""
    for sha256 in filter(None, frames):
        size = session.exec(select(FrameRow.width, FrameRow.height).where(FrameRow.sha256 == sha256)).first()
        if size is not None:
            return size[0], size[1]
    return NO_FRAME_SIZE


def sampled(count: int, keep: Sequence[int], most: int) -> tuple[list[int], int]:
    """Which of ``count`` turns to show, and k of "every k-th": the first, the last, all in ``keep``, and even steps between.

    More than ``most`` only when ``keep`` alone is more; k is 0 when nothing but those is shown.
    """
    always = {0, count - 1, *keep} if count else set()
    for every in range(max(1, math.ceil(count / most)), count + 1):
        chosen = always.union(range(0, count, every))
        if len(chosen) <= most:
            return sorted(chosen), every
    return sorted(always), 0


def spread(count: int, keep: Sequence[int], most: int) -> list[int]:
    """Which of ``count`` turns a sheet shows: the first, the last, all in ``keep``, and others evenly between, ``most`` in all.

    More than ``most`` only when ``keep`` alone is more.
    """
    always = {0, count - 1, *keep} if count else set()
    for others in range(min(count, most), 1, -1):
        chosen = always.union(round(i * (count - 1) / (others - 1)) for i in range(others))
        if len(chosen) <= most:
            return sorted(chosen)
    return sorted(always)


def _shots(episode: Episode, turns: Sequence[TurnRow], shown: Sequence[int], aside: str = "") -> list[Shot]:
    """The turns that are shown, in order, and the end. ``aside`` is a remark for the first."""
    chosen, count = set(shown), 0
    shots: list[Shot] = []
    for i, turn in enumerate(turns):
        count += len(turn.unlocked)
        if i in chosen:
            shots.append(_shot(turn, count, (i + 1) / len(turns), "" if shots else aside))
    return [*shots, _end(episode, turns, count)]


def _unlocking(turns: Sequence[TurnRow]) -> list[int]:
    return [i for i, turn in enumerate(turns) if turn.unlocked]


def _every(k: int) -> str:
    if k == 1:
        return ""
    return f"every {k}{_ordinal(k)} turn" if k else "key turns"


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _shot(turn: TurnRow, count: int, part: float, aside: str) -> Shot:
    trouble = ""
    if turn.outcome != Outcome.OK:
        trouble = f"{turn.outcome}: {turn.detail}" if turn.detail else turn.outcome
    return Shot(
        frame=turn.frame,
        title=f"turn {turn.index}",
        says=replay_draw.in_words(turn.actions) or "nothing done",
        gain=_signed(turn.reward),
        unlocked=tuple(turn.unlocked),
        trouble=trouble,
        aside=aside,
        count=count,
        part=part,
    )


def _end(episode: Episode, turns: Sequence[TurnRow], count: int) -> Shot:
    steps = "1 game step" if episode.length == 1 else f"{episode.length} game steps"
    how = {"died": "died", "length": "reached the episode's length", "turns": "reached the limit of turns"}.get(
        episode.ended or "", episode.ended or episode.state
    )
    reward = _signed(math.fsum(turn.reward for turn in turns)) or "0"
    return Shot(
        frame=episode.last_frame,
        title="end" if episode.state == "done" else episode.state,
        says=f"{how} after {steps}",
        gain=reward,
        trouble=episode.error or "",
        note="reward of all turns",
        count=count,
        part=1.0,
    )


def _signed(reward: float) -> str:
    rounded = round(reward, 2)
    return f"{rounded:+g}" if rounded else ""


def _load(session: Session, sha256: str | None, size: tuple[int, int]) -> Image.Image | None:
    """A stored frame as RGB of this size; None when it is not stored or cannot be read."""
    row = session.get(FrameRow, sha256) if sha256 else None
    if row is None:
        return None
    try:
        with Image.open(io.BytesIO(row.png)) as image:
            frame = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError):
        return None
    finally:
        session.expunge(row)
    return frame if frame.size == size else frame.resize(size, Image.Resampling.NEAREST)


def _gif(
    session: Session, episode: Episode, turns: Sequence[TurnRow], size: tuple[int, int], scale: int, fps: int, most: int
) -> bytes:
    width, height = replay_draw.tile_size(size, scale)
    shown, every = sampled(len(turns), _unlocking(turns), min(most, max(2, GIF_PIXELS // (width * height))))
    shots = _shots(episode, turns, shown, _every(every))
    images = (_paletted(_load(session, shot.frame, size), shot, size, scale) for shot in shots)
    usual = max(20, round(1000 / fps / 10) * 10)  # a GIF counts in hundredths of a second
    stays = [max(usual, UNLOCK_MS) if shot.unlocked or shot.aside else usual for shot in shots]
    stays[-1] = max(usual, END_MS)
    out = io.BytesIO()
    first = next(images)
    first.save(out, format="GIF", save_all=True, append_images=images, duration=stays, loop=0, optimize=False)
    return out.getvalue()


def _paletted(frame: Image.Image | None, shot: Shot, size: tuple[int, int], scale: int) -> Image.Image:
    """A tile with a palette: the picture's best colours, then the fixed ones of the words. No dithering: it would move."""
    width, height = replay_draw.tile_size(size, scale)
    words = replay_draw.ramps()
    canvas = Image.new("P", (width, height), FRAME_COLORS)
    left = (width - size[0] * scale) // 2
    colors: list[int] = []
    if frame is None:
        canvas.paste(_in_ramps(replay_draw.picture(None, size, scale)), (left, 0))
    else:
        # Not MEDIANCUT: it gives night noise the colours and takes them from the few bright pixels of the inventory.
        small = frame.quantize(FRAME_COLORS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        colors = (small.getpalette() or [])[: 3 * FRAME_COLORS]
        canvas.paste(replay_draw.picture(small, size, scale), (left, 0))
    canvas.paste(_in_ramps(replay_draw.band(shot, width)), (0, size[1] * scale))
    colors += [0] * (3 * FRAME_COLORS - len(colors))
    canvas.putpalette(colors + [value for color in words for value in color])
    return canvas


def _in_ramps(image: Image.Image) -> Image.Image:
    """An RGB image in the fixed colours, as palette numbers that come after the picture's."""
    words = replay_draw.ramps()
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for color in words for value in color])
    numbered = image.quantize(palette=palette, dither=Image.Dither.NONE)
    return numbered.point([min(i + FRAME_COLORS, 255) for i in range(256)])


def _sheet(session: Session, episode: Episode, turns: Sequence[TurnRow], size: tuple[int, int], scale: int, most: int) -> bytes:
    shots = _shots(episode, turns, spread(len(turns), _unlocking(turns), max(1, most - 1)))
    columns = min(SHEET_COLUMNS, len(shots))
    rows = math.ceil(len(shots) / columns)
    width, height = replay_draw.tile_size(size, scale)
    gap = max(4, width // 32)
    head = 2 * gap + width // 10
    full = (columns * (width + gap) + gap, head + rows * (height + gap))
    if full[0] * full[1] > SHEET_PIXELS:
        raise BadFlag(
            f"scale={scale} makes a picture of {full[0]} x {full[1]} pixels from frames of {size[0]} x {size[1]}; "
            f"take a smaller scale, or max_turns below {most}"
        )
    sheet = Image.new("RGB", full, (12, 13, 16))
    _heading(sheet, episode, gap, width // 14)
    for i, (shot, tile) in enumerate(_tiles(session, shots, size, scale)):
        at = gap + (i % columns) * (width + gap), head + (i // columns) * (height + gap)
        sheet.paste(tile, at)
        if shot.unlocked:
            box = (at[0] - gap // 2, at[1] - gap // 2, at[0] + width + gap // 2 - 1, at[1] + height + gap // 2 - 1)
            ImageDraw.Draw(sheet).rectangle(box, outline=replay_draw.GOLD, width=max(2, gap // 3))
    out = io.BytesIO()
    sheet.save(out, format="PNG", optimize=False)
    return out.getvalue()


def _tiles(session: Session, shots: Sequence[Shot], size: tuple[int, int], scale: int) -> Iterator[tuple[Shot, Image.Image]]:
    for shot in shots:
        width, height = replay_draw.tile_size(size, scale)
        tile = Image.new("RGB", (width, height), replay_draw.BAND)
        upper = replay_draw.picture(_load(session, shot.frame, size), size, scale)
        tile.paste(upper, ((width - size[0] * scale) // 2, 0))
        tile.paste(replay_draw.band(shot, width), (0, size[1] * scale))
        yield shot, tile


def _heading(sheet: Image.Image, episode: Episode, gap: int, em: int) -> None:
    who = episode.policy if not episode.model else f"{episode.policy} {episode.model}"
    source, _, turn = (episode.start_of or "").partition("/")
    begun = f" from turn {turn} of {source}" if source else ""
    replay_draw.heading(sheet, f"{episode.env} seed {episode.seed}{begun}, {who}", episode.id, gap, em)
