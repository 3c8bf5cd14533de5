"""Sessions of a tracing v3 database as one eval job of this store, in one transaction; a session always has the same id."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlmodel import Session, col, select

from app import artifacts, db, specs
from app.command_line import Tick, no_tick
from app.models import ALPHABET, Episode, FrameRow, Job
from app.records import Frame, ImagePart, Turn
from app.store import done, episodes, events, turns
from app.store.foreign import SESSION
from app.store.turns import system_text, text_sha256
from app.transfer import tables
from app.transfer.messages import Unusable
from app.transfer.report import Report
from app.transfer.sessions import Played, Sessions
from app.transfer.tables import batches

MOST_POLICIES: Final = 16
"""Policies in one eval; sessions of more models than that become several jobs."""
SQUARE_PX: Final = range(9, 145)
"""Sides of a frame that an eval of Crafter may name."""


def lasting_id(prefix: str, *named: str) -> str:
    """An id that the same names always get: 60 bits of their hash."""
    number = int.from_bytes(hashlib.sha256("\0".join(named).encode()).digest(), "big")
    return f"{prefix}_{''.join(ALPHABET[(number >> (5 * place)) & 31] for place in range(12))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fact:
    """As much of a session as the spec of its job is made from."""

    session_id: str
    seed: int
    label: str
    turns: int
    size: tuple[int, int] | None
    """Of its first picture."""
    pictures: bool
    words: bool
    """Its prompts hold text beside pictures."""


class SessionImport:
    """Brings sessions in. ``here`` is False when this store does not exist yet: a dry run only looks."""

    def __init__(self, sessions: Sessions, report: Report, *, here: bool = True) -> None:
        self._sessions, self._report, self._here = sessions, report, here

    def run(self, session_ids: Iterable[str], tick: Tick = no_tick) -> None:
        """Bring these sessions in that are not here yet."""
        facts = []
        for session_id in session_ids:
            fact = self._look(session_id)
            if fact is not None:
                facts.append(fact)
            tick(1)
        labels = sorted({fact.label for fact in facts})
        for some in batches(labels, MOST_POLICIES):
            self._job([fact for fact in facts if fact.label in some])

    def _look(self, session_id: str) -> _Fact | None:
        """Read a session, store its pictures; None when it is here already or cannot be carried over."""
        try:
            played = self._sessions.read(session_id)
        except Unusable as why:
            self._report.left[str(why)] += 1
            return None
        rows = [turns.row(turn) for turn in played.turns]
        if self._is_here(played, rows):
            return None
        self._report.left.update(played.lost)
        self._store_frames(played)
        first = next(iter(played.frames.values()), None)
        parts = [part for turn in played.turns for message in turn.messages if message.role == "user" for part in message.parts]
        return _Fact(
            session_id=session_id,
            seed=played.seed,
            label=played.label,
            turns=len(played.turns),
            size=(first.width, first.height) if first else None,
            pictures=bool(played.frames),
            words=not all(isinstance(part, ImagePart) for part in parts),
        )

    def _is_here(self, played: Played, rows: Sequence[turns.Row]) -> bool:
        if not self._here:
            return False
        with db.reading() as session:
            present = session.get(Episode, lasting_id("ep", played.session_id))
            if present is None:
                return False
            same = all(getattr(present, name) == value for name, value in _identity(played, rows).items())
            if present.job_id not in self._report.jobs:
                self._report.jobs.append(present.job_id)
            if same:
                self._report.same["episode"] += 1
            else:
                self._report.conflict(
                    f"session {played.session_id} is here as episode {present.id} with other content; it was left as it is"
                )
        return True

    def _store_frames(self, played: Played) -> None:
        self._report.new["frame"] += self._new_frames(played.frames)
        if not self._report.dry_run:
            episodes.save_frames(played.frames.values())

    def _new_frames(self, frames: dict[str, Frame]) -> int:
        present: set[str] = set()
        if self._here:
            with db.reading() as session:
                for batch in batches(frames):
                    present |= set(session.scalars(select(FrameRow.sha256).where(col(FrameRow.sha256).in_(batch))))
        return len(frames.keys() - present)

    # -- the job -----------------------------------------------------------------------------------------------------------

    def _job(self, facts: list[_Fact]) -> None:
        job_id = lasting_id("job", self._report.name, *sorted(fact.session_id for fact in facts))
        self._report.jobs.append(job_id)
        self._report.new.update({"job": 1, "episode": len(facts), "turn": sum(fact.turns for fact in facts)})
        if self._report.dry_run:
            return
        spec = specs.parse("eval", _tables(facts, _job_name(self._report.name)))
        labels = list(spec.eval.policies)  # type: ignore[union-attr]
        repeats, seen = spec.eval.episodes_per_seed, Counter[tuple[int, str]]()  # type: ignore[union-attr]
        with db.writing() as session:
            step_id = _add_job(session, job_id, spec, self._report, len(facts))
            for fact in facts:
                member = labels.index(fact.label) * repeats + seen[fact.seed, fact.label]
                seen[fact.seed, fact.label] += 1
                _add_episode(session, self._sessions.read(fact.session_id), job_id, step_id, member)
            message = f"{len(facts)} sessions of {self._report.source} were brought in as episodes"
            events.append(session, job_id, "job.imported", message, step_id=step_id, data={"form": "tracing_v3"})


def _job_name(name: str) -> str:
    return artifacts.clean_name(name)[:80].lstrip("._-") or "imported"


def _tables(facts: list[_Fact], name: str) -> dict[str, Any]:
    """A spec that tells what is known of how the sessions were played."""
    sizes = Counter(fact.size for fact in facts if fact.size and fact.size[0] == fact.size[1] and fact.size[0] in SQUARE_PX)
    pictures = any(fact.pictures for fact in facts)
    only = pictures and not any(fact.words for fact in facts)
    common = sizes.most_common(1)[0][0] if sizes else None
    return {
        "kind": "eval",
        "name": name,
        "eval": {
            "seeds": sorted({fact.seed for fact in facts}),
            "policies": sorted({fact.label for fact in facts}),
            "episodes_per_seed": max(Counter((fact.seed, fact.label) for fact in facts).values()),
            "max_turns": max(fact.turns for fact in facts),
            "reply_format": "tool_call",
            "save_frames": "all" if pictures else "none",
            "policy_config": {"use_vision": pictures, "image_only_mode": only, "history": 0},
            "env_config": {"image_size": common[0]} if common else {},
        },
    }


def _add_job(session: Session, job_id: str, spec: specs.AnySpec, report: Report, count: int) -> str:
    step_id = lasting_id("stp", job_id)
    job = Job(
        id=job_id,
        kind="eval",
        name=spec.name,
        labels={"imported": report.name},
        spec=specs.resolved(spec),
        spec_sha256=specs.sha256(spec),
        source=report.name,
        created_at=db.clock(session),
    )
    done.add(session, job, step_id=step_id, work="import", count=count)
    return step_id


def _identity(played: Played, rows: Sequence[turns.Row]) -> dict[str, Any]:
    """What of an episode comes from its session."""
    chain = ""
    for row in rows:
        chain = turns.chained(chain, row)
    outcomes, timings = Counter(row["outcome"] for row in rows), Counter[str]()
    for turn in played.turns:
        timings.update(turn.timings)
    last: Turn = played.turns[-1]
    return {
        "seed": played.seed,
        "env": "crafter",
        "env_version": SESSION,
        "split": played.split,
        "task_id": played.task_id,
        "policy": played.label,
        "model": played.model,
        "state": "done",
        "turns": len(rows),
        "length": played.length,
        "returns": played.returns,
        "achievements": dict.fromkeys(played.achievements, 0),
        "unlocked": played.unlocked,
        "outcomes": dict(outcomes),
        "terminated": last.terminated,
        "truncated": last.truncated,
        "sha256": chain,
        "timings": dict(timings),
        "created_at": played.created_at,
    }


def _add_episode(session: Session, played: Played, job_id: str, step_id: str, member: int) -> None:
    rows = [turns.row(turn) for turn in played.turns]
    episode = Episode(
        id=lasting_id("ep", played.session_id),
        job_id=job_id,
        step_id=step_id,
        member=member,
        scores=played.scores,
        finished_at=db.clock(session),
        **_identity(played, rows),
    )
    session.add(episode)
    session.flush()
    texts = {text_sha256(text): text for turn in played.turns if (text := system_text(turn)) is not None}
    text_rows = [{"sha256": sha256, "text": text} for sha256, text in texts.items()]
    tables.insert(session.connection(), "text", text_rows, new_only=True)
    turns.add(session, episode.id, rows)
    session.expunge(episode)
