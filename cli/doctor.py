"""The verb `doctor`: looks at this machine through `python -m app.doctor`, and at the server over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import click

from app.errors import NotAllowed, SynthqError
from cli import show
from cli.client import Client, Json
from cli.processes import command, environment

TIME_S = 60.0
"""Longest that the look at this machine may take."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the checks under `checks`.")
def doctor(as_json: bool) -> int:
    """Check this machine and the server, with hints.

    Exits 1 when a check fails. With SYNTHQ_URL naming another machine, what runs there is asked over HTTP and this machine is
    checked as a client only.
    """
    found: list[Json] = []
    with Client() as client:
        for check in (*_machine(client_only=not client.local), *_server(client)):
            found.append(check)
            if not as_json:
                _print(check)
    ok = all(check["ok"] is not False for check in found)
    if as_json:
        show.out_json({"ok": ok, "checks": found})
    elif not ok:
        bad = ", ".join(str(check["name"]) for check in found if check["ok"] is False)
        show.say(f"not in order: {bad}")
    return 0 if ok else 1


def _print(check: Json) -> None:
    mark = {True: click.style("✓", fg="green"), False: click.style("✗", fg="red"), None: "-"}[check["ok"]]
    show.out(f"{mark} {show.clean(check['name']):<15} {show.clean(check['detail'])}")
    if check["ok"] is False and check["hint"]:
        show.out(f"  {'':<15} {show.clean(check['hint'])}")


def _check(name: str, ok: bool | None, detail: str, hint: str = "") -> Json:
    return {"name": name, "ok": ok, "detail": detail, "hint": hint}


def _machine(*, client_only: bool) -> Iterator[Json]:
    """The checks of app.doctor, which runs apart: it may be what is broken."""
    line = command("app.doctor", *(["--client"] if client_only else []))
    try:
        ran = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=TIME_S, check=False)
    except subprocess.TimeoutExpired:
        slow = f"the look at this machine took longer than {TIME_S:.0f} s"
        yield _check("machine", False, slow, "is a disk or the database slow?")
        return
    for text in ran.stdout.splitlines():
        yield json.loads(text)
    if ran.returncode != 0:
        last = (ran.stderr.strip() or "no words").splitlines()[-1]
        detail = f"{sys.executable} -m app.doctor ended with {ran.returncode}: {last}"
        yield _check("machine", False, detail, "install synthq again: `make install` in its folder")


def _server(client: Client) -> Iterator[Json]:
    """Does the server answer, is it of this version, does it let us in; and what it says of its parts when it is elsewhere."""
    try:
        theirs = client.health()
    except SynthqError as error:
        yield _check("server", False, str(error))
        return
    yield _version(client.url, str(theirs.get("version")))
    try:
        queues = client.rows("/queues")
    except NotAllowed as error:
        yield _check("access", False, str(error), "on the server's own machine `synthq key create` makes a key")
        return
    except SynthqError as error:
        yield _check("access", False, str(error))
        return
    yield _check("access", True, "the server answers requests from here")
    if not client.local:
        yield from _far(client, queues)


def _version(url: str, theirs: str) -> Json:
    try:
        ours = version("synthq")
    except PackageNotFoundError:
        return _check("server", None, f"{url} answers, version {theirs}; this command line is not installed and has none")
    hint = f"install synthq {theirs} here, or {ours} there"
    return _check("server", ours == theirs, f"{url} answers, version {theirs}; this command line is {ours}", hint)


def _far(client: Client, queues: list[Json]) -> Iterator[Json]:
    for name, part in client.ready().items():
        yield _check(name, bool(part.get("ready")), str(part.get("detail")), "look at it on the server's own machine")
    for queue in queues:
        if queue.get("workers") or queue.get("waiting"):
            detail = f"{queue.get('workers')} workers with {queue.get('slots')} slots; {queue.get('waiting')} steps wait"
            yield _check(f"queue {queue.get('queue')}", bool(queue.get("workers")), detail, "start a worker for it")
