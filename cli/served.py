"""The verbs of `models` that ask a server: what models jobs have named or made, one of them, the endpoints that serve them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from cli import show
from cli.client import Client, Json
from cli.submit import found_model

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
MODEL_FILES: Final = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
"""A folder with one of these holds a model."""
SHOWN_FOLDERS: Final = 5
MOST_LOOKED_AT: Final = 500
"""Folders that are looked at for models."""
SHOWN_JOBS: Final = 5
"""Jobs that are named of those that used a model."""


@click.command("list")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="At most so many.")
@JSON
def list_models(limit: int, as_json: bool) -> None:
    """List the models that jobs have named or made.

    The last named first, with who serves them now. Published versions are listed while they are in service.
    """
    with Client() as client:
        rows, local = client.rows("/models", limit=limit), client.local
    if as_json:
        show.out_json({"object": "list", "data": rows})
    elif not rows:
        show.say("no job has named or made a model yet")
    else:
        headers = ["model", "kind", "on", "state", "jobs", "served by", "last"]
        for line in show.table(headers, [_row(row) for row in rows]):
            show.out(line)
    if not as_json and local and len(rows) < limit:
        told = _tell_of_folders({str(row.get("path") or row.get("base")) for row in rows})
        if not (rows or told):
            show.say("`synthq models init-tiny models/tiny` makes a tiny one")


def _tell_of_folders(known: set[str]) -> bool:
    """Say which folders here hold models that no job has named: a server hears of a model when a job names it. False: none."""
    here = Path.cwd()
    names = [str(path.relative_to(here)) for path in _folders(here) if not {str(path), str(path.resolve())} & known]
    if not names:
        return False
    more = f" and {len(names) - SHOWN_FOLDERS} more" if len(names) > SHOWN_FOLDERS else ""
    first = shlex.quote(names[0])
    show.say(
        f"no job has named what is in {show.clean(', '.join(names[:SHOWN_FOLDERS]))}{more}: "
        f"`synthq models show {first}` tells of it, `synthq submit eval --model {first}` plays with it"
    )
    return True


def _folders(here: Path) -> list[Path]:
    """Folders of models in this one, and in those in it."""
    near = _inside(here)
    looked_at = islice(chain(near, chain.from_iterable(map(_inside, near))), MOST_LOOKED_AT)
    return sorted(path for path in looked_at if any((path / name).is_file() for name in MODEL_FILES))


def _inside(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [
                Path(entry.path) for entry in islice(entries, MOST_LOOKED_AT) if not entry.name.startswith(".") and entry.is_dir()
            ]
    except OSError:
        return []


def _row(row: Json) -> list[object]:
    base = show.clean(row.get("base")) if row.get("kind") != "base" else ""
    last, jobs, serving = show.ago(row.get("last_at")), row.get("used_by") or [], row.get("served_by") or []
    state = show.coloured(row.get("state") or "")
    return [show.clean(row.get("ref")), show.clean(row.get("kind")), base, state, len(jobs) or "", len(serving) or "", last]


@click.command("show")
@click.argument("ref")
@JSON
def show_model(ref: str, as_json: bool) -> None:
    """Show what is known of a model.

    REF is a folder, a hub id, an artifact or a served name. What a folder says of itself is told even when no job has named it.
    """
    with Client() as client:
        found = client.get(f"/models/{quote(found_model(ref) or ref, safe='', errors='replace')}")
    if as_json:
        show.out_json(found)
        return
    for line in show.fields(_fields(found)):
        show.out(line)


def _fields(found: Json) -> Iterator[tuple[str, object]]:
    kind, facts = found.get("kind"), found.get("facts") or {}
    yield "model", show.clean(found.get("ref"))
    yield "kind", show.clean(kind)
    yield "state", show.coloured(found.get("state") or "")
    yield "on", show.clean(found.get("base")) if kind != "base" else ""
    yield "served as", show.clean(found.get("name")) if found.get("name") != found.get("ref") else ""
    yield "folder", show.clean(found.get("path")) if found.get("path") != found.get("ref") else ""
    yield "sha256", str(found.get("sha256") or "")[:12]
    yield "artifact", show.clean(found.get("artifact") or "") if found.get("artifact") != found.get("ref") else ""
    yield from _facts(facts)
    yield "made by", show.clean(found.get("made_by") or "")
    yield "used by", _some(found.get("used_by") or []) or "no job yet"
    yield "served by", _some(found.get("served_by") or []) or "no endpoint"
    yield "last named", show.moment(found.get("last_at"))


def _facts(facts: Json) -> Iterator[tuple[str, object]]:
    """What the folder says, in words."""
    if parameters := facts.get("parameters"):
        yield "parameters", f"{parameters:,}" + (f", {show.clean(facts['dtype'])}" if facts.get("dtype") else "")
    if facts.get("kind") == "base":
        side = facts.get("patch", 0) * facts.get("merge", 0)
        pixels = f"{side} x {side} pixels a token"
        yield "pictures", f"{pixels} (patches of {facts.get('patch')}, {facts.get('merge')} x {facts.get('merge')} merged)"
        yield "length", f"{facts.get('max_length', 0):,} tokens at most"
    elif facts.get("kind") == "adapter":
        yield "rank", f"{facts.get('rank')}, alpha {facts.get('alpha', 0):g}"
        yield "layers", show.clean(", ".join(facts.get("targets") or []))


def _some(ids: list[Any]) -> str:
    more = f" and {len(ids) - SHOWN_JOBS} more" if len(ids) > SHOWN_JOBS else ""
    return show.clean(", ".join(map(str, ids[:SHOWN_JOBS]))) + more


@click.command("endpoints")
@click.option("--all", "everything", is_flag=True, help="Also those that stopped or went away.")
@JSON
def list_endpoints(everything: bool, as_json: bool) -> None:
    """List what the inference workers serve.

    An endpoint is the engine of one worker; the scheduler says which model it should serve.
    """
    with Client() as client:
        rows = client.rows("/endpoints", all=everything or None)
    if as_json:
        show.out_json({"object": "list", "data": rows})
    elif not rows:
        show.say("no inference worker is alive; `synthq worker inference` starts one")
    else:
        headers = ["endpoint", "host", "state", "engine", "model", "adapters", "requests", "since", "should serve"]
        for line in (*show.table(headers, [_endpoint(row) for row in rows]), *_faults(rows)):
            show.out(line)


def _endpoint(row: Json) -> list[object]:
    base, wanted = row.get("base") or "", (row.get("desired") or {}).get("base") or ""
    requests = f"{row.get('in_flight')} of {row.get('capacity')}" if row.get("capacity") else ""
    return [
        row.get("id"),
        show.clean(row.get("host")),
        show.coloured(row.get("state")),
        show.clean(row.get("engine")),
        show.clean(base),
        len(row.get("adapters") or {}) or "",
        requests,
        show.ago(row.get("changed_at")),
        show.clean(wanted) if wanted != base else "",
    ]


def _faults(rows: list[Json]) -> Iterator[str]:
    """What went wrong at each endpoint, whole: why it serves nothing, and which adapters it cannot load."""
    for row in rows:
        reasons = [row["error"]] if row.get("error") else []
        base = (row.get("desired") or {}).get("base")
        for name, told in (row.get("failures") or {}).items():
            if name != base and (told.get("model") or {}).get("base") == base:
                reasons.append(f"{name}: {told.get('reason')}")
        if reasons:
            yield ""
            yield f"{show.clean(row.get('id'))}:"
        for reason in reasons:
            for line in str(reason).splitlines():
                yield from show.wrapped(show.clean(line.strip()), indent=2)
