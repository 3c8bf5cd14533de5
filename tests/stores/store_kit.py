"""What tests of whole stores share: a played home, every row of a store, and the verbs run in this process."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.transfer import command, tables
from app.transfer.report import Report
from app.transfer.tables import Reader
from workers.rollout import actions, bring_in, envs

KNOWN = tuple(envs.make("crafter", {}).actions)
OF_JOBS = ("job", "step", "job_event", "episode", "turn", "artifact", "spend", "metric", "model_use", "adapter_version")
CONTENT = (*OF_JOBS, "frame", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A home with jobs in it."""

    folder: Path
    eval_id: str
    filter_id: str

    @property
    def db(self) -> Path:
        return self.folder / "synthq.db"

    @contextmanager
    def sql(self) -> Iterator[sqlite3.Connection]:
        """The database by the driver alone, to be spoiled; committed at the end."""
        with closing(sqlite3.connect(self.db)) as connection:
            yield connection
            connection.commit()


def brought(*places: Path | str, **options: Any) -> Report:
    """Import sources into the present store, as the verb does; gives the last report."""
    return command.bring_in([str(place) for place in places], parse, **options)[-1]


def parse(reply: Any) -> Any:
    return bring_in.read_reply(KNOWN, reply)


def sums() -> dict[str, tuple[int, int]]:
    """Rows and their hashes of every table with content, but for what is of this store alone."""
    with tables.snapshot() as connection:
        reader = Reader(connection)
        return {name: tables.sum_of(reader.rows(name), ("stored_at",)) for name in CONTENT}


def counts() -> dict[str, int]:
    """Rows by table, all tables."""
    with tables.snapshot() as connection:
        return {name: Reader(connection).count(name) for name in tables.all_tables()}


__all__ = ["CONTENT", "KNOWN", "Home", "actions", "brought", "counts", "parse", "sums"]
