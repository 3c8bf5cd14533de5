"""Verbs that work on the database itself: bring stores in, save and restore, drop what is old, check.

Each becomes `python -m ...`, with SYNTHQ_DATABASE_URL or SYNTHQ_HOME as the server has them; no server is asked.
"""

from __future__ import annotations

from pathlib import Path

import click

from cli.processes import become

DRY_RUN = click.option("--dry-run", is_flag=True, help="Tell what would be done, and change nothing.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
ARTIFACTS = click.option(
    "--artifacts",
    metavar="DIR|URL",
    help="Where the source's artifacts are; without it the folder `artifacts` beside its file, if there is one.",
)


def _flags(**given: object) -> list[str]:
    """The words of the flags that were given: ``--name VALUE``, or ``--name`` for True."""
    words: list[str] = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value is not None and value is not False:
            words += [flag] if value is True else [flag, str(value)]
    return words


@click.command("import")
@click.argument("source")
@click.option("--name", metavar="NAME", help="Under which name it is on record; without it the file's name.")
@ARTIFACTS
@DRY_RUN
@JSON
def import_traces(source: str, name: str | None, artifacts: str | None, dry_run: bool, as_json: bool) -> None:
    """Bring the traces of another store into this one.

    SOURCE is the SQLite file or the address (postgresql://...) of another synthq store, or a SQLite file of tracing v3. It is not
    changed. What is here already stays; the same import again adds nothing. A filter's `db` names it afterwards.
    """
    flags = _flags(name=name, artifacts=artifacts, dry_run=dry_run, json=as_json)
    become("workers.rollout.bring_in", *flags, "--", source)


@click.command("merge")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@ARTIFACTS
@DRY_RUN
@JSON
def merge_traces(sources: tuple[str, ...], artifacts: str | None, dry_run: bool, as_json: bool) -> None:
    """Bring the traces of several stores into this one.

    As `traces import`, one after another; nothing is begun when one of them cannot be read.
    """
    become("workers.rollout.bring_in", *_flags(artifacts=artifacts, dry_run=dry_run, json=as_json), "--", *sources)


@click.group("db")
def database() -> None:
    """Look after the database: migrate, backup, restore, prune."""


@database.command()
def migrate() -> None:
    """Bring the tables of SYNTHQ_DATABASE_URL to this version, without losing anything.

    `synthq up` does that by itself; where the processes are started one by one, this comes first.
    """
    become("app.migrate")


@database.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--with-artifacts", is_flag=True, help="Save the artifacts' bytes too.")
@click.option("--overwrite", is_flag=True, help="Take the place of a file that is there.")
@JSON
def backup(file: Path, with_artifacts: bool, overwrite: bool, as_json: bool) -> None:
    """Save the whole store to one file, while synthq runs.

    The file holds the database as of one moment, a manifest with the sha256 of each part and, if asked, the artifacts. It appears
    when it is complete. `synthq db restore` reads it, into SQLite or Postgres.
    """
    flags = _flags(with_artifacts=with_artifacts, overwrite=overwrite, json=as_json)
    become("app.backup", "backup", *flags, "--", str(file))


@database.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Take the place of a store that has jobs; a SQLite file is kept beside it.")
@JSON
def restore(file: Path, replace: bool, as_json: bool) -> None:
    """Bring the store back from a file that `synthq db backup` made.

    Every hash is checked before anything is touched. synthq must be down. Jobs come back as they were; steps that ran go back to
    the queue when synthq is up again.
    """
    become("app.backup", "restore", *_flags(replace=replace, json=as_json), "--", str(file))


@database.command()
@click.option("--jobs-days", type=click.FloatRange(min=0), metavar="N", help="Drop jobs that ended more than N days ago.")
@click.option("--frames-days", type=click.FloatRange(min=0), metavar="N", help="Drop the frames of jobs that ended so long ago.")
@click.option("--unknown-files", is_flag=True, help="Drop also files of jobs that this store does not know.")
@DRY_RUN
@JSON
def prune(jobs_days: float | None, frames_days: float | None, unknown_files: bool, dry_run: bool, as_json: bool) -> None:
    """Drop what is old, and what nothing names any more.

    Without flags SYNTHQ_KEEP_JOBS_DAYS and SYNTHQ_KEEP_FRAMES_DAYS count; 0 is for ever. A job with the label keep=true
    stays, and so does one that an unfinished job needs. Frames, texts and files that nothing names go once they are a few
    hours old.
    """
    flags = _flags(jobs_days=jobs_days, frames_days=frames_days, unknown_files=unknown_files, dry_run=dry_run)
    become("app.retention", *flags, *_flags(json=as_json))


@click.command()
@click.option("--repair", is_flag=True, help="Put right what can be put right without a guess, and say so.")
@JSON
def fsck(repair: bool, as_json: bool) -> None:
    """Check the whole store against itself: frames, turns, traces, artifacts, jobs.

    Every picture is decoded, every hash is computed anew. Exits 1 when something is wrong. It may run while synthq works.
    """
    become("app.fsck", *_flags(repair=repair, json=as_json))
