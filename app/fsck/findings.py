"""What a check tells: how much it looked at, and a sentence for each thing that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from sqlalchemy import column
from sqlalchemy.exc import DatabaseError

from app.transfer import tables
from app.transfer.tables import Reader

T = TypeVar("T")
ROWS_A_LOOK: Final = 200


@dataclass(slots=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    check: str
    subject: str
    """Id of the row, such as an episode's."""
    sentence: str
    mend: Callable[[], bool] | None = None
    """Puts it right without a guess, and says whether it did; None where that cannot be."""
    repaired: bool = False

    def to_json(self) -> dict[str, Any]:
        """The problem as one object."""
        return {
            "check": self.check,
            "subject": self.subject,
            "sentence": self.sentence,
            "repairable": self.mend is not None,
            "repaired": self.repaired,
        }


@dataclass(slots=True, kw_only=True)
class Check:
    """One kind of look."""

    name: str
    looked: int = 0
    problems: list[Problem] = field(default_factory=list)

    def problem(self, subject: str, sentence: str, mend: Callable[[], bool] | None = None) -> None:
        """Tell of something wrong."""
        self.problems.append(Problem(check=self.name, subject=subject, sentence=sentence, mend=mend))

    @contextmanager
    def reading(self, subject: str) -> Iterator[None]:
        """Reads of the block that the database itself refuses become a problem, and the look goes on behind them."""
        try:
            yield
        except DatabaseError as error:
            self.problem(subject, f"{subject} cannot be read from the database: {error.orig}")


def pages(check: Check, table: str, key: str, columns: Sequence[str]) -> Iterator[tuple[Reader, list[tables.Row]]]:
    """Rows of a table in the order of their key, a page at a time, each page and what is read beside it as of one moment.

    A page that the database cannot read is read row by row, and the rows that cannot be read are told of.
    """
    last: str | None = None
    while True:
        with tables.snapshot() as connection:
            reader = Reader(connection)
            behind = () if last is None else (column(key) > last,)
            names = [row[key] for row in reader.rows(table, *behind, columns=(key,), order=(key,), limit=ROWS_A_LOOK)]
            rows = _page(check, reader, table, key, columns, names)
            check.looked += len(names)
            yield reader, rows
        if len(names) < ROWS_A_LOOK:
            return
        last = names[-1]


def _page(check: Check, reader: Reader, table: str, key: str, columns: Sequence[str], names: Iterable[str]) -> list[tables.Row]:
    wanted = list(names)
    try:
        return list(reader.rows(table, column(key).in_(wanted), columns=columns, order=(key,)))
    except DatabaseError:
        rows: list[tables.Row] = []
        for name in wanted:
            with check.reading(f"{table} {name}"):
                rows += reader.rows(table, column(key) == name, columns=columns)
        return rows
