"""The verbs ``traces import`` and ``traces merge``: look at every source first, then bring them in one by one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack

from app import command_line, db, migrate
from app.errors import BadFlag
from app.settings import get_settings
from app.store import imports
from app.transfer import names
from app.transfer import report as reports
from app.transfer import source as sources
from app.transfer.episodes import SessionImport
from app.transfer.report import Report
from app.transfer.sessions import Parse, Sessions
from app.transfer.source import Source
from app.transfer.stores import StoreImport
from app.transfer.tables import Reader


def flags() -> argparse.ArgumentParser:
    """The flags of import and merge."""
    parser = argparse.ArgumentParser(prog="synthq traces import", description="Bring traces of other stores into this one.")
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument("--name")
    parser.add_argument("--artifacts", metavar="DIR|URL")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser


def main(parse: Parse, words: Sequence[str] | None = None) -> int:
    """Run one import or merge; the exit code. ``parse`` is the parser of replies."""
    given = flags().parse_args(words)

    def run() -> int:
        found = bring_in(
            given.sources, parse, name=given.name, artifact_root=given.artifacts, dry_run=given.dry_run, json=given.json
        )
        return max(report.exit_code for report in found)

    return command_line.told(run)


def bring_in(
    places: Sequence[str],
    parse: Parse,
    *,
    name: str | None = None,
    artifact_root: str | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> list[Report]:
    """Bring several sources in and print what came of it.

    Raises, before anything is begun, SourceNotFound or BadSource when one of them cannot be read, and BadFlag for a name that
    filters cannot say.
    """
    if name is not None and len(places) > 1:
        raise BadFlag(f"--name {name} goes with one source, and there are {len(places)}; import them one by one")
    if name is not None:
        names.check(name)
    with ExitStack() as open_sources:
        found = [open_sources.enter_context(sources.opened(place)) for place in places]
        here = _prepare(dry_run)
        made = [_one(each, parse, name or names.sayable(each.name), artifact_root, here=here, dry_run=dry_run) for each in found]
    _print(made, json=json)
    return made


def _prepare(dry_run: bool) -> bool:
    """Bring this store to this version's tables; a dry run only asks whether there is one."""
    if not dry_run:
        migrate.upgrade()
        return True
    here = sources.target_exists()
    if here:
        sources.check_target()
    return here


def _one(source: Source, parse: Parse, name: str, root: str | None, *, here: bool, dry_run: bool) -> Report:
    report = Report(source=source.where, form=source.form, name=name, dry_run=dry_run)
    if name == names.sayable(source.name) != source.name:
        report.notes.append(f"it is on record as {name!r}: filter.db cannot say {source.name!r} (--name gives another name)")
    if source.form == "synthq":
        stores = StoreImport(Reader(source.connection), report, here=here, artifact_root=root or _root_beside(source))
        job_ids = stores.ended()
        with command_line.meter(f"jobs of {name}", len(job_ids)) as tick:
            stores.run(job_ids, tick)
    else:
        sessions = Sessions(source.connection, parse)
        ids = sessions.ids()
        with command_line.meter(f"sessions of {name}", len(ids)) as tick:
            SessionImport(sessions, report, here=here).run(ids, tick)
    if report.jobs and not dry_run:
        _record(source, report)
    return report


def _record(source: Source, report: Report) -> None:
    with db.writing() as session:
        if imports.stands_for_others(session, report.name, report.jobs):
            report.notes.append(
                f"another source came in under the name {report.name!r}; filter.db = {report.name!r} now means both "
                "(--name gives another name)"
            )
        imports.record(
            session, name=report.name, form=report.form, sha256=source.sha256(), jobs=report.jobs, counts=dict(report.new)
        )


def _root_beside(source: Source) -> str | None:
    """The artifact root of a home whose database file is named, where that is to be seen."""
    if source.path is None:
        return None
    folder = source.path.parent / "artifacts"
    return str(folder) if folder.is_dir() and str(folder) != get_settings().artifacts else None


def _print(made: list[Report], *, json: bool) -> None:
    if json:
        command_line.out_json({"sources": [report.to_json() for report in made]})
    else:
        for line in reports.lines(made):
            command_line.out(line)
        if made[0].dry_run:
            command_line.say("nothing was changed: this was a dry run")
    for report in made:
        for problem in report.problems:
            command_line.say(f"{report.name}: {problem}")
