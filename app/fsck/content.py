"""Frames, texts and artifacts: are the bytes what their names say?"""

from __future__ import annotations

import hashlib

from app import artifacts
from app.command_line import Tick
from app.errors import ArtifactDamaged, ArtifactNotFound, BadFrame
from app.fsck.findings import Check, pages
from app.pngs import measure
from app.transfer.files import as_artifact
from app.transfer.tables import Row, columns_of


def frames(check: Check, tick: Tick) -> None:
    """Every frame: its hash, its pixels, its size."""
    for _, rows in pages(check, "frame", "sha256", ("sha256", "png", "width", "height")):
        for row in rows:
            _frame(check, row)
        tick(len(rows))


def _frame(check: Check, row: Row) -> None:
    name, png = row["sha256"], row["png"]
    if not isinstance(png, bytes):
        check.problem(name, f"frame {name} holds text and no picture")
        return
    found = hashlib.sha256(png).hexdigest()
    if found != name:
        check.problem(name, f"frame {name} has bytes with sha256 {found}")
        return
    try:
        size = measure(png)
    except BadFrame as error:
        check.problem(name, f"frame {name} cannot be decoded: {error}")
        return
    if size != (row["width"], row["height"]):
        check.problem(name, f"frame {name} has {size[0]} x {size[1]} pixels, and its row says {row['width']} x {row['height']}")


def texts(check: Check, tick: Tick) -> None:
    """Every text: its hash."""
    for _, rows in pages(check, "text", "sha256", ("sha256", "text")):
        for row in rows:
            found = hashlib.sha256(row["text"].encode()).hexdigest()
            if found != row["sha256"]:
                check.problem(row["sha256"], f"text {row['sha256']} has content with sha256 {found}")
        tick(len(rows))


def artifact_files(check: Check, tick: Tick) -> None:
    """Every artifact: that its bytes are there, and its hash."""
    for _, rows in pages(check, "artifact", "id", columns_of("artifact")):
        for row in rows:
            artifact = as_artifact(row)
            try:
                artifacts.open_artifact(artifact, verify=True).close()
            except ArtifactNotFound:
                check.problem(row["id"], f"artifact {row['id']} ({row['name']}) of job {row['job_id']} has no file {row['path']}")
            except ArtifactDamaged as error:
                check.problem(row["id"], f"{error} (job {row['job_id']}, file {row['path']})")
        tick(len(rows))
