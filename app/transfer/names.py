"""Under which name a source is on record: one that a filter's ``db`` can say."""

from __future__ import annotations

import re
from typing import Final

from pydantic import ValidationError

from app.errors import BadFlag, cut
from app.specs import FilterTable
from app.specs.filter import STORE

_OTHER: Final = re.compile(r"[^\w. -]")
"""What a name given by hand may not hold: a path, an address and a glob are made of it."""
MOST_CHARS: Final = 200


def check(name: str) -> str:
    """A name that was given by hand. Raises BadFlag."""
    if _OTHER.search(name) or name != name.strip() or not name or len(name) > MOST_CHARS:
        raise BadFlag(
            f"--name {cut(name)} is no name that filter.db can say; "
            f"it takes 1 to {MOST_CHARS} letters, digits, dots, dashes, underscores, and blanks between them"
        )
    if name == STORE:
        raise BadFlag(f"--name {name} means the whole store in filter.db; give it another name")
    return name


def sayable(name: str) -> str:
    """The name of a file or the address of a server, changed only where ``filter.db`` would read something else in it."""
    if _said(name):
        return name
    changed = _OTHER.sub("_", name).strip()[:MOST_CHARS] or "_"
    return f"{changed}.db" if changed == STORE else changed


def _said(name: str) -> bool:
    try:
        return name != STORE and FilterTable.model_validate({"db": name}).db == name
    except ValidationError:
        return False
