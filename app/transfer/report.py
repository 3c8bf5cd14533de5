"""What an import did, for people and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from app import command_line

CONFLICT_EXIT = 5
DAMAGED_EXIT = 1


@dataclass(slots=True, kw_only=True)
class Report:
    """What came of one source."""

    source: str
    form: str
    name: str
    dry_run: bool = False
    new: Counter[str] = field(default_factory=Counter)
    """New rows by table."""
    same: Counter[str] = field(default_factory=Counter)
    """Jobs, or episodes of a tracing v3 database, that were here already, row for row."""
    left: Counter[str] = field(default_factory=Counter)
    """What was not carried over, by what it is."""
    problems: list[str] = field(default_factory=list)
    """Sentences about jobs or sessions that were refused."""
    notes: list[str] = field(default_factory=list)
    conflicts: int = 0
    damaged: int = 0
    jobs: list[str] = field(default_factory=list)
    """The source's jobs that this store now has."""

    @property
    def exit_code(self) -> int:
        """0 when all that could come came."""
        return CONFLICT_EXIT if self.conflicts else DAMAGED_EXIT if self.damaged else 0

    def conflict(self, sentence: str) -> None:
        """Something with the same id and other content is here."""
        self.conflicts += 1
        self.problems.append(sentence)

    def damage(self, sentence: str) -> None:
        """Something in the source is not what it says it is."""
        self.damaged += 1
        self.problems.append(sentence)

    def to_json(self) -> dict[str, Any]:
        """The report as one object."""
        return {
            "source": self.source,
            "form": self.form,
            "name": self.name,
            "dry_run": self.dry_run,
            "jobs": self.jobs,
            "new": dict(self.new),
            "already_here": dict(self.same),
            "left_out": dict(self.left),
            "conflicts": self.conflicts,
            "damaged": self.damaged,
            "problems": self.problems,
            "notes": self.notes,
        }


COLUMNS = ("job", "episode", "turn", "frame", "artifact")


def lines(reports: list[Report]) -> list[str]:
    """The reports as one table of new rows, then what else is to be told."""
    headers = ["source", "form", *(f"{each}s" for each in COLUMNS), "here already", "left out", "refused"]
    rows = [
        [
            report.name,
            report.form,
            *(report.new[each] for each in COLUMNS),
            sum(report.same.values()),
            sum(report.left.values()),
            len(report.problems),
        ]
        for report in reports
    ]
    told = command_line.table(headers, rows)
    for report in reports:
        told += [f"{report.name}: left out: {what} ({count:,})" for what, count in sorted(report.left.items())]
        told += [f"{report.name}: {note}" for note in report.notes]
    return told
