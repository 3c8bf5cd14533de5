"""`submit sft`: the flags of a training from data, and the lines that it sends from here."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from app.errors import BadDataset, BadFlag, Problem, SynthqError
from cli import processes, show
from cli.flags import Overrides

if TYPE_CHECKING:
    from app.specs.sft import SftSpec
    from cli.client import Client

Json = dict[str, Any]
ENDINGS: Final = (".jsonl", ".json", ".gz", ".txt")
"""How names of files end; those of jobs do not."""
ARTIFACT: Final = re.compile(r"art_[0-9a-z]{12}")
CHUNK_BYTES: Final = 1 << 20
FINISH_S: Final = 3600.0
"""How long the server may look at a file that was sent."""
TO_SEND: Final = "lines-to-send"
"""What a spec has as its data until the file is sent."""
TOLD: Final = 20
"""Problems of a file that are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """A file of lines that is here, and was looked at."""

    path: Path
    sha256: str
    bytes: int
    lines: int
    images: int

    def __str__(self) -> str:
        return f"{self.path} ({self.lines:,} lines, {self.images:,} images, {self.bytes:,} bytes)"


def file_in(data: str | None) -> Path | None:
    """The file that --data names; None where it names what the server has. Raises BadFlag for a file that is not there."""
    if data is None:
        return None
    path = Path(data).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise BadFlag(f"--data {data} is a folder; it takes a JSONL file, a job, or the id of an artifact")
    if "/" in data or data.startswith((".", "~")) or data.endswith(ENDINGS):
        raise BadFlag(f"there is no file {data} for --data; it takes a JSONL file, a job, or the id of an artifact")
    return None


def looked_at(path: Path, spec: SftSpec) -> Lines:
    """A file of lines, every line and image of it looked at. Raises BadDataset with the first problems."""
    show.say(f"checking {path}")
    table = spec.sft
    most = 0 if table.supports_vision is False else table.max_images_per_message
    pictures = [] if most is None else ["--max-images", str(most)]
    argv = processes.command("app.dataset", "check", "--json", "--max-problems", str(TOLD), *pictures, "--", str(path))
    ran = subprocess.run(argv, env=processes.environment(), stdout=subprocess.PIPE, check=False)
    try:
        told = json.loads(ran.stdout)
        summary = told["summary"]
    except (ValueError, KeyError, TypeError):
        raise SynthqError(f"{path} could not be checked: `synthq data check {path}` tells more") from None
    if not told["ok"]:
        problems = [
            Problem(key=each["where"], message=each["message"], file=str(path), line=each["line"]) for each in told["problems"]
        ]
        raise BadDataset(problems, total=summary["problems"], lines=summary["lines"])
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            hasher.update(piece)
    size = path.stat().st_size
    return Lines(path=path, sha256=hasher.hexdigest(), bytes=size, lines=summary["lines"], images=summary["images"])


def sent(client: Client, lines: Lines) -> Json:
    """Send a file to the server, unless it has it already; gives the artifact that it is there."""
    told = client.post("/uploads", {"name": lines.path.name, "bytes": lines.bytes, "sha256": lines.sha256})
    if told.get("artifact") is not None:
        show.say(f"{lines.path.name} is on the server already")
        return dict(told["artifact"])
    where, piece_bytes = f"/uploads/{told['id']}", int(told["piece_bytes"])
    with (
        lines.path.open("rb") as file,
        click.progressbar(length=lines.bytes, label=f"sending {lines.path.name}", file=sys.stderr) as bar,
    ):
        offset = 0
        while piece := file.read(piece_bytes):
            reached = int(client.send(f"{where}/pieces", piece, offset=offset)["received"])
            bar.update(reached - offset)
            offset = reached
            file.seek(offset)
    return client.post(f"{where}/finish")


def uploaded(lines: Lines) -> str:
    """Send a file; gives the id of the artifact that it is on the server."""
    import httpx

    from cli.client import Client

    with Client(timeout=httpx.Timeout(FINISH_S, connect=5.0)) as client:
        artifact = sent(client, lines)
    show.say(f"{lines} is {artifact['id']} of {artifact['job_id']}")
    return str(artifact["id"])


def overrides(own: Json, *, dry_run: bool, model: str | None, warm: str | None) -> tuple[Overrides, Path | None]:
    """The flags as values of the spec, and the file that --data names; ``TO_SEND`` stands for it until it is sent.

    ``model`` and ``warm`` are as a spec names them. Raises BadFlag.
    """
    for flag in ("env", "iterations", "extend"):
        if own[flag] is not None:
            raise BadFlag(f"--{flag} is read by rl alone; sft learns from --data")
    given, data = Overrides(), own["data"]
    given.add("--model", "sft.model", model)
    given.add("--warmstart-from", "sft.warmstart_from", warm if dry_run or warm is None else _known(warm))
    given.add("--examples", "sft.max_lines", own["examples"])
    path = file_in(data)
    if path is not None:
        given.add("--data", "sft.data", TO_SEND)
    else:
        given.add("--data", "sft.data", data if dry_run or data is None else _known(data))
    return given, path


def _known(ref: str) -> str:
    """A job by its full id, for a name may come to mean another; what is no job as it is."""
    if "/" in ref or ARTIFACT.fullmatch(ref):
        return ref
    from cli.client import Client

    with Client() as client:
        return str(client.job(ref)["id"])
