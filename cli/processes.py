"""Verbs that start processes: up, down, worker. Each becomes `python -m ...`; the CLI imports nothing of the server."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

SOURCE = Path(__file__).resolve().parent.parent
"""The folder that holds the packages cli, app and workers."""


def environment() -> dict[str, str]:
    """This process's variables, with the folder of the user kept off the child's module path.

    `python -m app...` looks in the present folder first, and a user's project may well have an `app` of its own.
    """
    path = os.environ.get("PYTHONPATH", "")
    own = [] if SOURCE.name in ("site-packages", "dist-packages") else [str(SOURCE)]
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([*own, *([path] if path else [])])}


def command(module: str, *args: str) -> list[str]:
    """The command line that runs a module with this Python."""
    return [sys.executable, "-m", module, *args]


def become(module: str, *args: str) -> NoReturn:
    """Go on as another program: signals, the terminal and the exit code are its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command(module, *args), environment())


@click.command()
@click.option("--workers", multiple=True, metavar="ROLE=N", help="Worker processes of a role, such as rollout=4; repeatable.")
@click.option("--only", multiple=True, metavar="ROLE", help="Only this role of the Procfile; repeatable.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="Port of the api; 0 takes a free one.")
@click.option("--no-flower", is_flag=True, help="Leave Celery's dashboard out.")
@click.option("--procfile", type=click.Path(path_type=Path), metavar="FILE", help="Another list of processes.")
@click.option("--detach", is_flag=True, help="Return when all is ready; `synthq down` stops it.")
def up(
    workers: tuple[str, ...], only: tuple[str, ...], port: int | None, no_flower: bool, procfile: Path | None, detach: bool
) -> None:
    """Start synthq on this machine.

    Runs the API, the scheduler, workers and, unless SYNTHQ_REDIS_URL names one, a broker; restarts what falls over. Ctrl-C stops
    all of it. State lives in SYNTHQ_HOME (without it ~/.synthq).
    """
    flags = [word for value in workers for word in ("--workers", value)]
    flags += [word for value in only for word in ("--only", value)]
    flags += ["--port", str(port)] if port is not None else []
    flags += ["--procfile", str(procfile)] if procfile is not None else []
    flags += [name for name, given in (("--no-flower", no_flower), ("--detach", detach)) if given]
    become("app.supervisor", "up", *flags)


@click.command()
def down() -> None:
    """Stop what `synthq up` started.

    Steps that run are handed back; their jobs go on at the next `synthq up`.
    """
    become("app.supervisor", "down")


@click.command()
@click.argument("role")
@click.option("--concurrency", type=click.IntRange(1), metavar="N", help="Steps that it runs at once.")
def worker(role: str, concurrency: int | None) -> None:
    """Run one worker in the foreground.

    ROLE is rollout, inference or trainer. SYNTHQ_DATABASE_URL and SYNTHQ_REDIS_URL say which system it works for. SIGTERM
    lets it hand back its work and end.
    """
    become("workers.main", role, *(["--concurrency", str(concurrency)] if concurrency is not None else []))
