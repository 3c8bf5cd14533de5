"""Pictures of an episode: every turn that matters is in them, they are what was stored, and equal traces give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flow import at_home, eval_tables, run_spec
from PIL import Image
from sqlmodel import Session, col, delete, select

from app import db, migrate, replay, replay_draw
from app.errors import BadFlag, TraceNotFound, UnknownName
from app.models import Episode, FrameRow, Job, TurnRow


@pytest.fixture
def session(played: Job) -> Iterator[Session]:
    with db.writing() as session:
        yield session


@pytest.fixture
def episode(session: Session) -> Episode:
    """The scripted player's best: it unlocks several things in its 40 turns."""
    best = session.exec(select(Episode).order_by(col(Episode.unlocked).desc(), col(Episode.seed))).first()
    assert best is not None
    assert best.unlocked >= 2
    return best


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def pixels(image: Image.Image, turn: int, side: int, scale: int = 4) -> np.ndarray:
    """The native frame under a GIF's tile."""
    image.seek(turn)
    tile = np.asarray(image.convert("RGB"))
    return tile[: side * scale : scale, : side * scale : scale]


def stored(session: Session, sha256: str | None) -> np.ndarray:
    row = session.get(FrameRow, sha256)
    assert row is not None
    return np.asarray(opened(row.png).convert("RGB"))


def test_a_gif_shows_every_turn_and_the_end_in_the_stored_pixels(session: Session, episode: Episode) -> None:
    image = opened(replay.render(session, episode.id))
    turns = session.exec(select(TurnRow).where(TurnRow.episode_id == episode.id).order_by(col(TurnRow.index))).all()
    assert image.format == "GIF"
    assert image.n_frames == len(turns) + 1 == 41
    assert image.info["loop"] == 0
    for i, sha256 in [*((turn.index, turn.frame) for turn in turns), (40, episode.last_frame)]:
        true = stored(session, sha256)
        assert np.abs(pixels(image, i, 64).astype(int) - true).max() <= 8, f"turn {i}"


def test_the_same_trace_gives_the_same_bytes(session: Session, episode: Episode) -> None:
    for format in replay.FORMATS:
        first = replay.render(session, episode.id, format=format)
        session.expunge_all()
        assert replay.render(session, episode.id, format=format) == first


def test_a_turn_that_unlocks_and_the_end_stay_longer(session: Session, episode: Episode) -> None:
    image = opened(replay.render(session, episode.id, fps=10))
    turns = session.exec(select(TurnRow).where(TurnRow.episode_id == episode.id).order_by(col(TurnRow.index))).all()
    for i, turn in enumerate(turns):
        image.seek(i)
        assert image.info["duration"] == (replay.UNLOCK_MS if turn.unlocked else 100)
    image.seek(len(turns))
    assert image.info["duration"] == replay.END_MS


def test_a_short_gif_keeps_first_last_and_unlocking_turns_and_says_so(session: Session, episode: Episode) -> None:
    most = episode.unlocked + 6
    image = opened(replay.render(session, episode.id, max_turns=most))
    assert image.n_frames <= most + 1
    image.seek(0)
    assert image.info["duration"] == replay.UNLOCK_MS, "the first tile stays, for it has something to say"


@pytest.mark.parametrize(("count", "most"), [(1, 1), (5, 400), (400, 400), (401, 400), (10_000, 400), (7, 1)])
def test_sampling_is_even_and_never_loses_what_must_stay(count: int, most: int) -> None:
    keep = [i for i in (3, 77, 500) if i < count]
    for chosen in (replay.sampled(count, keep, most)[0], replay.spread(count, keep, most)):
        assert chosen == sorted(set(chosen))
        assert {0, count - 1, *keep} <= set(chosen) <= set(range(count))
        assert len(chosen) <= max(most, len({0, count - 1, *keep}))
    every = replay.sampled(count, keep, most)[1]
    assert set(range(0, count, every) if every else ()) <= set(replay.sampled(count, keep, most)[0])
    if count <= most:
        assert replay.sampled(count, keep, most) == (list(range(count)), 1)


def test_no_turns_at_all_is_a_picture_of_the_end(session: Session, episode: Episode) -> None:
    session.exec(delete(TurnRow).where(col(TurnRow.episode_id) == episode.id))
    assert opened(replay.render(session, episode.id)).n_frames == 1
    assert opened(replay.render(session, episode.id, format="png")).format == "PNG"


def test_a_sheet_has_a_gold_frame_around_each_unlock_in_exact_pixels(session: Session, episode: Episode) -> None:
    sheet = opened(replay.render(session, episode.id, format="png", scale=2)).convert("RGB")
    turns = session.exec(select(TurnRow).where(TurnRow.episode_id == episode.id).order_by(col(TurnRow.index))).all()
    area = np.asarray(sheet)
    unlocking = [turn for turn in turns if turn.unlocked]
    for turn in [turns[0], *unlocking]:
        big = stored(session, turn.frame).repeat(2, 0).repeat(2, 1)
        assert _holds(area, big), f"turn {turn.index} is on the sheet, pixel for pixel"
    gold = (area == np.array(replay_draw.GOLD)).all(-1)
    assert gold.sum() > 500 * len(unlocking)


def _holds(area: np.ndarray, part: np.ndarray) -> bool:
    """True when ``part`` stands somewhere in ``area``."""
    height, width = part.shape[:2]
    first = (area[: area.shape[0] - height + 1, : area.shape[1] - width + 1] == part[0, 0]).all(-1)
    return any((area[y : y + height, x : x + width] == part).all() for y, x in np.argwhere(first))


def test_a_missing_or_spoilt_frame_is_a_grey_tile_that_says_so(session: Session, episode: Episode) -> None:
    frames = session.exec(select(TurnRow.frame).where(TurnRow.episode_id == episode.id).order_by(col(TurnRow.index))).all()
    lone = next(i for i in range(1, 40) if frames.count(frames[i]) == 1)
    row = session.get(FrameRow, frames[lone])
    session.delete(row)
    other = next(i for i in range(lone + 1, 40) if frames.count(frames[i]) == 1)
    spoilt = session.get(FrameRow, frames[other])
    assert spoilt is not None
    spoilt.png = spoilt.png[:100]
    session.flush()
    session.expire_all()
    image = opened(replay.render(session, episode.id))
    for i in (lone, other):
        seen = pixels(image, i, 64)
        assert tuple(seen[0, 0]) == replay_draw.GREY
        assert (seen == np.array(replay_draw.TEXT)).all(-1).any(), "words stand on it"
    assert tuple(pixels(image, 0, 64)[0, 0]) != replay_draw.GREY


def test_an_episode_without_any_frame_still_plays(session: Session, episode: Episode) -> None:
    session.exec(delete(FrameRow))
    assert opened(replay.render(session, episode.id)).n_frames == 41


@pytest.mark.parametrize("scale", [1, 16])
def test_the_words_stay_readable_and_the_size_bounded_at_any_scale(session: Session, episode: Episode, scale: int) -> None:
    data = replay.render(session, episode.id, scale=scale)
    image = opened(data)
    assert image.width >= replay_draw.MIN_WIDTH
    assert image.width * image.height * image.n_frames <= replay.GIF_PIXELS
    assert image.n_frames >= episode.unlocked + 3, "first, last, end, and each unlock"


def test_what_does_not_fit_is_refused_with_the_value(session: Session, episode: Episode) -> None:
    with pytest.raises(TraceNotFound, match="ep_nope"):
        replay.render(session, "ep_nope")
    with pytest.raises(UnknownName, match=r"no replay format named 'jpg'.*gif, png"):
        replay.render(session, episode.id, format="jpg")
    for flags, words in [({"scale": 17}, "scale=17 must be 1 to 16"), ({"fps": 0}, "fps=0"), ({"max_turns": 0}, "max_turns=0")]:
        with pytest.raises(BadFlag, match=words):
            replay.render(session, episode.id, **flags)
    with pytest.raises(BadFlag, match=r"scale=16 makes a picture of .* take a smaller scale"):
        replay.render(session, episode.id, format="png", scale=16, max_turns=40)


def test_actions_are_folded_into_few_words() -> None:
    assert replay_draw.in_words(["noop", "do", "do", "do", "noop"]) == "noop, do x3, noop"
    assert replay_draw.in_words([]) == ""


def test_night_noise_keeps_its_colours(tmp_path: Path) -> None:
    with at_home(tmp_path / "night"):
        migrate.upgrade()
        run_spec(eval_tables(policies="scripted", seeds="0", max_turns=250, env_config={"length": 250}))
        with db.reading() as session:
            episode = session.exec(select(Episode)).one()
            turn = session.exec(select(TurnRow).where(TurnRow.index == episode.turns - 1)).one()
            true = stored(session, turn.frame)
            colors = len(np.unique(true.reshape(-1, 3), axis=0))
            assert colors > 1000, "the frame is full of noise"
            image = opened(replay.render(session, episode.id))
            shown = pixels(image, turn.index, 64)
            assert np.abs(shown.astype(int) - true).max() <= 8
