"""Names that are safe as one file name everywhere."""

from __future__ import annotations

import re
from typing import Final

NAME_CHARS: Final = 100
"""Longest file name that is kept; file systems take 255 bytes, and the hash goes before it."""


def clean_name(name: str) -> str:
    """A name that is safe as one file name everywhere: ASCII letters, digits, ``._-``, not hidden, not long."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")
    stem, dot, suffix = safe.rpartition(".")
    if dot and len(safe) > NAME_CHARS and len(suffix) <= 16:
        safe = f"{stem[: NAME_CHARS - len(suffix) - 1]}.{suffix}"
    return safe[:NAME_CHARS] or "file"
