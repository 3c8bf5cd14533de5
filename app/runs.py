"""The folder of a job that trains: its checkpoints, on the machine where it trains. It goes with the job."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.errors import Unavailable
from app.file_names import clean_name
from app.settings import get_settings

SPARE_BYTES: Final = 500_000_000
"""What a checkpoint leaves free: the store grows on the same disk."""
_UPDATE: Final = re.compile(r"iter-(\d+)")
"""The folder of an update of an rl job, by its number."""


def folder(job_id: str) -> Path:
    """Where a job keeps what it needs to go on. It may not be there yet."""
    return get_settings().runs / clean_name(job_id)


def checkpoints(job_id: str) -> list[int]:
    """After how many of its updates an rl job can be gone on from here."""
    names = (path.parent.name for path in folder(job_id).glob("iter-*/state"))
    return sorted(int(found[1]) + 1 for name in names if (found := _UPDATE.fullmatch(name)))


def check_room(needed: int) -> None:
    """Raise Unavailable, to be tried again, where so many more bytes would fill the disk."""
    place = get_settings().runs
    held = next(each for each in [place, *place.absolute().parents] if each.exists())
    free = shutil.disk_usage(held).free
    if free < needed + SPARE_BYTES:
        raise Unavailable(
            f"a checkpoint needs {needed / 1e9:.1f} GB, and below {place} are {free / 1e9:.1f} GB free, of which "
            f"{SPARE_BYTES / 1e9:.1f} are for the store; free some space, or set SYNTHQ_HOME to another disk"
        )


def delete(job_id: str) -> None:
    """Delete what a job keeps here. Nothing there is no error."""
    shutil.rmtree(folder(job_id), ignore_errors=True)


def present() -> Iterator[Path]:
    """The folders of jobs that are here."""
    place = get_settings().runs
    yield from sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else ()
