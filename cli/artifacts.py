"""The verb `artifacts`: which files a job made, and their bytes."""

from __future__ import annotations

from pathlib import Path

import click

from cli import complete, show
from cli.client import Client, Json
from cli.outputs import already, download, targets


@click.command()
@click.argument("job", default="@last", shell_complete=complete.jobs)
@click.option(
    "--output-dir",
    "--download",
    "folder",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Fetch all to DIR.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the artifacts under `data`.")
def artifacts(job: str, folder: Path | None, as_json: bool) -> None:
    """List or download the files that a job made.

    Each download is checked against its sha256; an adapter or a model becomes a folder. JOB is an id, the start of one, a name,
    or @last (the default).
    """
    with Client() as client:
        found = client.job(job)
        rows = client.rows(f"/jobs/{found['id']}/artifacts")
        for row, target in targets(rows, folder) if folder else []:
            if there := already(row, target):
                show.say(there)
            else:
                download(client, row, target)
                show.say(f"✓ wrote {target} ({show.size(row.get('bytes'))})")
    if as_json:
        show.out_json({"object": "list", "data": rows})
    elif not rows:
        show.say(
            f"{found['id']} has made no files" + ("" if found["state"] == "succeeded" else f"; its state is {found['state']}")
        )
    elif folder is None:
        for line in show.table(["artifact", "kind", "name", "size", "sha256", "created"], [_row(row) for row in rows]):
            show.out(line)


def _row(row: Json) -> list[object]:
    name, kind = show.clean(row.get("name")), show.clean(row.get("kind"))
    return [row.get("id"), kind, name, show.size(row.get("bytes")), str(row.get("sha256"))[:12], show.ago(row.get("created_at"))]
