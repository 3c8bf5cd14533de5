"""Weights of a folder that become others under the same name."""

from __future__ import annotations

import os
from pathlib import Path

from app import weights


def replace_weights(folder: Path, *, byte: int = 0x11) -> None:
    """Put other weights in the place of those that are there, as who trains a model does: a whole file, in one move.

    The last number of the file becomes another, of the same size and no larger than one.
    """
    (file,) = weights.files(folder)
    held = bytearray(file.read_bytes())
    held[-4:] = bytes([byte, 0, 0, 0x3D])
    draft = folder / "draft"
    draft.write_bytes(held)
    os.replace(draft, file)
