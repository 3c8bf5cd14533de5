"""Events without gaps and frames stored once, with many writers at the same time; in both databases."""

from __future__ import annotations

import multiprocessing

from core import kit
from core.test_claims import CLAIMERS, together
from sqlalchemy import func, select

from app import db
from app.models import FrameRow, TextRow
from app.records import Frame
from app.store import episodes, events

EVENTS_EACH = 25


def write_events(given: tuple[str, int]) -> list[int]:
    job_id, writer = given
    seqs = []
    for i in range(EVENTS_EACH):
        with db.writing() as session:
            seqs.append(events.append(session, job_id, "log", f"{writer}/{i}", data={"writer": writer}))
    db.dispose()
    return seqs


def test_events_of_eight_processes_have_no_gaps_and_none_is_lost(store: str) -> None:
    job = kit.submit_noop()
    with multiprocessing.get_context("fork").Pool(CLAIMERS) as pool:
        given = pool.map(write_events, [(job.id, i) for i in range(CLAIMERS)], chunksize=1)
        pool.close()
        pool.join()
    rows = kit.job_events(job.id)
    assert [row.seq for row in rows] == list(range(1, CLAIMERS * EVENTS_EACH + 2))
    for writer, seqs in enumerate(given):
        assert seqs == sorted(seqs)
        assert [row.message for row in rows if row.data.get("writer") == writer] == [f"{writer}/{i}" for i in range(EVENTS_EACH)]


def test_an_event_that_is_rolled_back_leaves_no_gap(store: str) -> None:
    job = kit.submit_noop()

    class Oops(Exception):
        pass

    for keep in (True, False, True):
        try:
            with db.writing() as session:
                events.append(session, job.id, "log", "hello")
                if not keep:
                    raise Oops
        except Oops:
            continue
    assert [row.seq for row in kit.job_events(job.id)] == [1, 2, 3]


def test_a_page_begins_after_the_number_that_was_read_last(sqlite_store: str) -> None:
    job = kit.submit_noop()
    write_events((job.id, 0))
    with db.reading() as session:
        pages = [[row.seq for row in events.page(session, job.id, after=after, limit=10)] for after in (0, 10, 20, 26)]
    assert pages == [[*range(1, 11)], [*range(11, 21)], [*range(21, 27)], []]


def test_frames_and_texts_are_stored_once_however_many_write_them(store: str) -> None:
    frames = [Frame.of(f"png {i}".encode(), width=64, height=64) for i in range(40)]

    def work(i: int) -> None:
        mine = frames[i * 3 :] + frames[: i * 3]  # each in another order
        for start in range(0, len(mine), 10):
            episodes.save_frames(mine[start : start + 10])
        episodes.save_texts({"a" * 64: "system", f"{i % 2}" * 64: "other"})

    together(work, 8)
    with db.reading() as session:
        stored = dict(session.execute(select(FrameRow.sha256, FrameRow.png)).all())
        assert stored == {frame.sha256: frame.png for frame in frames}
        assert session.execute(select(func.count()).select_from(TextRow)).scalar() == 3
