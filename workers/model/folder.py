"""Writes a folder whole or not at all, and what stands in every model folder that is made here beside the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from app.errors import InvalidInput

LINEAGE: Final = "synthq.json"
"""Tells what a folder was made from."""


@contextmanager
def whole(directory: Path) -> Iterator[Path]:
    """A new folder beside ``directory`` to write in; it gets that name when the block ends well, and goes when it does not.

    Raises InvalidInput as ``check_free`` does.
    """
    check_free(directory)
    draft = directory.with_name(f".{directory.name}.{uuid4().hex}")
    draft.mkdir(parents=True)
    try:
        yield draft
        if directory.exists():
            directory.rmdir()
        draft.rename(directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def check_free(directory: Path) -> None:
    """Raises InvalidInput when there is something at ``directory`` already, other than an empty folder."""
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise InvalidInput(f"{directory} is not a folder; name one that is empty, or not there yet")
    if directory.is_dir() and any(directory.iterdir()):
        raise InvalidInput(f"{directory} is not empty; name a folder that is, or one that is not there yet")


def write_json(path: Path, value: Any) -> None:
    """Write a value as people and programs read it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
