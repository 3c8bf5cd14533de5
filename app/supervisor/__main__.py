"""``python -m app.supervisor up`` and ``down``: the flags, and what becomes of an error."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from app.errors import BadFlag, SynthqError
from app.settings import Settings, get_settings
from app.supervisor import detach
from app.supervisor.plan import API, Options, Plan, choose_port, make, workers_flag
from app.supervisor.report import Console
from app.supervisor.state import lock, make_home

INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The flags of up and down."""
    root = argparse.ArgumentParser(prog="synthq", description="Start and stop synthq on this machine.")
    verbs = root.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="start synthq on this machine")
    up.add_argument("--workers", action="append", default=[], metavar="ROLE=N", help="processes of a worker role (rollout=2)")
    up.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME", help="run these roles of the Procfile only")
    up.add_argument("--no-flower", action="store_true", help="leave Celery's dashboard out")
    up.add_argument("--port", type=int, metavar="N", help="port of the api (8484; 0: any free one)")
    up.add_argument("--detach", action="store_true", help="return when synthq is ready, and leave it running")
    up.add_argument("--procfile", type=Path, metavar="FILE", help="another list of processes")
    up.add_argument("--in-background", action="store_true", help=argparse.SUPPRESS)
    verbs.add_parser("down", help="stop what up started")
    return root


def options(given: argparse.Namespace) -> Options:
    """The flags, checked. Raises BadFlag."""
    if given.port is not None and not 0 <= given.port <= 65535:
        raise BadFlag(f"--port {given.port} is no port; it takes a number from 0 to 65535")
    return Options(
        workers=workers_flag(given.workers),
        only=tuple(name for each in given.only for name in each.split(",")),
        flower=not given.no_flower,
        port=given.port,
        procfile=given.procfile,
    )


def settle(given: Options) -> tuple[Settings, Plan]:
    """Fix home and port, for this process and, through the environment, for all that it starts."""
    os.environ["SYNTHQ_HOME"] = str(get_settings().home.expanduser().absolute())
    if given.port is not None:
        os.environ["SYNTHQ_API_PORT"] = str(given.port)
    get_settings.cache_clear()
    return get_settings(), make(given, get_settings())


def up(given: Options, *, quiet: bool) -> int:
    """Run synthq until it is asked to end."""
    from app.supervisor.crew import Crew  # the database and all that belongs to it; down needs none of it

    settings, plan = settle(given)
    make_home(settings)
    with lock(settings):
        if any(planned.role.name == API for planned in plan.processes):
            os.environ["SYNTHQ_API_PORT"] = str(choose_port(settings.api_host, settings.api_port))
            get_settings.cache_clear()
        console = Console(sys.stdout, [planned.name for planned in plan.processes], quiet=quiet)
        crew = Crew(plan, get_settings(), say=console.say, tell=console.tell)
        for sentence in plan.skipped:
            console.tell(f"left out: {sentence}")
        asyncio.run(crew.run())
    return 0


def main(words: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = parser().parse_args(words)
    try:
        if given.verb == "down":
            settle_home()
            return detach.down(get_settings())
        asked = options(given)
        if given.detach:
            settings, _ = settle(asked)
            return detach.up(settings, [word for word in words or sys.argv[1:] if word != "--detach"])
        return up(asked, quiet=given.in_background)
    except SynthqError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"Error: {error.filename or 'the system'}: {error.strerror or error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def settle_home() -> None:
    """The home, made absolute."""
    os.environ["SYNTHQ_HOME"] = str(get_settings().home.expanduser().absolute())
    get_settings.cache_clear()


if __name__ == "__main__":
    sys.exit(main())
