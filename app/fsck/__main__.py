"""The verb ``fsck``: every check in turn, what it found, and what was put right."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sqlalchemy.exc import DatabaseError

from app.command_line import Tick, counted, meter, out, out_json, size, table, told
from app.fsck import content, jobs, traces, waste
from app.fsck.findings import Check
from app.fsck.waste import Waste
from app.transfer import tables
from app.transfer.source import check_target
from app.transfer.tables import Reader

CHECKS: Final[dict[str, tuple[Callable[[Check, Tick], None], str | None]]] = {
    "database": (jobs.database, None),
    "parents": (jobs.parents, None),
    "jobs": (jobs.jobs, "job"),
    "episodes": (traces.episodes, "episode"),
    "frames": (content.frames, "frame"),
    "texts": (content.texts, "text"),
    "artifacts": (content.artifact_files, "artifact"),
}
"""Every check by name, and the table whose rows it goes through."""
MOST_TOLD: Final = 100
"""Problems that are printed; ``--json`` has them all."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code: 1 when something is wrong that was not put right."""
    parser = argparse.ArgumentParser(prog="synthq fsck", description="Check the whole store against itself.")
    parser.add_argument("--repair", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(words)
    return told(lambda: _fsck(repair=given.repair, json=given.json))


def _fsck(*, repair: bool, json: bool) -> int:
    check_target()
    found = run()
    if repair:
        mend(found)
    wrong = any(not problem.repaired for check in found for problem in check.problems)
    unreadable = any(check.problems for check in found if check.name == "database")
    unnamed = None if unreadable else waste.look(drop=repair and not wrong)  # what seems unnamed may belong to what is wrong
    if json:
        _print_json(found, unnamed, clean=not wrong)
    else:
        for line in _lines(found, unnamed):
            out(line)
    return 1 if wrong else 0


def run() -> list[Check]:
    """Every check, in order."""
    found = []
    for name, (look, of) in CHECKS.items():
        check = Check(name=name)
        try:
            with meter(name, _count(of)) as tick:
                look(check, tick)
        except DatabaseError as error:
            check.problem("database", f"the check of {name} could not be ended: {error.orig}")
        found.append(check)
    return found


def _count(of: str | None) -> int | None:
    if of is None:
        return None
    with tables.snapshot() as connection:
        return Reader(connection).count(of)


def mend(found: list[Check]) -> None:
    """Put right what can be put right without a guess."""
    for check in found:
        for problem in check.problems:
            if problem.mend is not None:
                problem.repaired = problem.mend()


def _print_json(found: list[Check], unnamed: Waste | None, *, clean: bool) -> None:
    out_json(
        {
            "clean": clean,
            "checks": [{"name": c.name, "looked_at": c.looked, "problems": len(c.problems)} for c in found],
            "problems": [problem.to_json() for check in found for problem in check.problems],
            "waste": None
            if unnamed is None
            else {name: getattr(unnamed, name) for name in ("frames", "texts", "files", "bytes", "dropped")},
        }
    )


def _lines(found: list[Check], unnamed: Waste | None) -> Iterator[str]:
    yield from table(["check", "looked at", "problems"], [[c.name, c.looked, len(c.problems)] for c in found])
    problems = [problem for check in found for problem in check.problems]
    for problem in problems[:MOST_TOLD]:
        mark = " (put right)" if problem.repaired else " (--repair puts it right)" if problem.mend else ""
        yield f"{'✓' if problem.repaired else '✗'} {problem.sentence}{mark}"
    if len(problems) > MOST_TOLD:
        yield f"and {len(problems) - MOST_TOLD:,} more; --json has them all"
    if unnamed is not None and unnamed.any:
        what = f"{counted(unnamed.frames, 'frame')}, {counted(unnamed.texts, 'text')} and {counted(unnamed.files, 'file')}"
        did = "were dropped" if unnamed.dropped else "could go (`synthq db prune`, or --repair where nothing else is wrong)"
        yield f"nothing names {what} ({size(unnamed.bytes)}); they {did}"
    if not problems:
        yield "nothing is wrong"


if __name__ == "__main__":
    sys.exit(main())
