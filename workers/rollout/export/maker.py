"""Turns, texts and frames out of the store, as lines. Reads only the turns whose lines are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from sqlmodel import Session, col, select

from app import db
from app.errors import ReplayMismatch, StepFailed
from app.models import FrameRow, TextRow, TurnRow
from app.specs import FilterTable
from workers.rollout import lines
from workers.rollout import relabel as expert
from workers.rollout.export.columns import Ints
from workers.rollout.export.pulse import Pulse
from workers.rollout.export.spool import Spool
from workers.rollout.export.turns import Kept
from workers.rollout.lines import Form, Line, Played
from workers.rollout.relabel import Label
from workers.rollout.selection import Candidate

TURNS_A_FETCH = 50
"""Turns, with their frames, that are in memory at once."""


class Maker:
    """Makes the lines of chosen turns."""

    def __init__(
        self, pulse: Pulse, table: FilterTable, chosen: Sequence[Candidate], how: Mapping[str, Played], kept: Kept
    ) -> None:
        self._pulse, self._table, self._chosen, self._how, self._kept = pulse, table, chosen, how, kept
        self._systems: dict[str, str] = {}
        self._form = Form(
            metadata=table.include_metadata,
            tools=any(how[episode.job_id].tools for episode in chosen),
            rationales=table.rationales,
            expert=None if table.view is None else f"scripted:{table.view}",
        )

    def make(self, rows: Ints, spool: Spool, place: Callable[[int], str]) -> None:
        """Add the lines of these rows, ascending, to the spool. ``place`` tells which line of the output a row becomes."""
        numbers, starts = np.unique(self._kept.episode[rows], return_index=True)
        for number, of_episode in zip(numbers.tolist(), np.split(rows, starts[1:]), strict=True):
            self._episode(self._chosen[number], of_episode, spool, place)
            self._pulse.reach(number + 1, len(self._chosen))

    def _episode(self, episode: Candidate, rows: Ints, spool: Spool, place: Callable[[int], str]) -> None:
        by_turn = dict(zip(self._kept.turn[rows].tolist(), rows.tolist(), strict=True))
        with db.reading() as session:
            labels = self._labels(session, episode, by_turn) if self._form.expert else {}
            for turn, frames in self._turns(session, episode, list(by_turn)):
                self._pulse()
                row = by_turn[turn.index]
                spool.add(row, self._line(session, turn, episode, frames, row, place, labels.get(turn.index)))

    def _line(
        self,
        session: Session,
        turn: TurnRow,
        episode: Candidate,
        frames: Mapping[str, FrameRow],
        row: int,
        place: Callable[[int], str],
        label: Label | None,
    ) -> Line:
        how = self._how[episode.job_id]

        def picture(sha256: str) -> bytes:
            where = f"{place(row)}, turn {turn.index} of episode {episode.id},"
            return lines.checked_png(frames.get(sha256), sha256, how, where)

        return lines.line(
            turn,
            episode,
            how,
            self._form,
            system=self._system(session, turn),
            picture=picture if self._table.include_images else None,
            value=float(self._kept.value[row]),
            label=label,
        )

    def _turns(
        self, session: Session, episode: Candidate, wanted: Sequence[int]
    ) -> Iterator[tuple[TurnRow, Mapping[str, FrameRow]]]:
        """These turns of an episode, in order, each with the frames that its prompt may show."""
        for at in range(0, len(wanted), TURNS_A_FETCH):
            some = wanted[at : at + TURNS_A_FETCH]
            query = select(TurnRow).where(TurnRow.episode_id == episode.id, col(TurnRow.index).in_(some))
            turns = session.exec(query.order_by(col(TurnRow.index))).all()
            if len(turns) != len(some):
                raise StepFailed(f"turns of episode {episode.id} were deleted while they were read")
            yield from ((turn, frames) for frames in [self._frames(session, turns)] for turn in turns)
            session.expunge_all()

    def _frames(self, session: Session, turns: Sequence[TurnRow]) -> dict[str, FrameRow]:
        if not self._table.include_images:
            return {}
        wanted = {sha256 for turn in turns for sha256 in lines.frames_of(turn)}
        return {row.sha256: row for row in session.exec(select(FrameRow).where(col(FrameRow.sha256).in_(wanted)))}

    def _system(self, session: Session, turn: TurnRow) -> str | None:
        if turn.system is None:
            return None
        if turn.system not in self._systems:
            row = session.get(TextRow, turn.system)
            if row is None:
                raise StepFailed(
                    f"turn {turn.index} of episode {turn.episode_id} has a system text {turn.system}, and it is not stored"
                )
            self._systems[turn.system] = row.text
        return self._systems[turn.system]

    def _labels(self, session: Session, episode: Candidate, wanted: Mapping[int, int]) -> dict[int, Label]:
        """The expert's word on these turns. The episode is played again for it, every turn of it."""
        how = self._how[episode.job_id]
        labels = {}
        try:
            played = expert.recorded(session, episode.id, how.env, how.env_config)
            for label in expert.relabel(played, self._table.view or ""):
                self._pulse()
                if label.turn in wanted:
                    labels[label.turn] = label
        except ReplayMismatch as error:
            raise StepFailed(f"relabel plays episode {episode.id} again, and it comes out otherwise: {error}") from error
        return labels
