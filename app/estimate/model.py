"""Where the sizes of a model are known from, without loading it and without asking another machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.errors import BadModel
from app.geometry import LEAST_PX, MOST_PX, PUBLISHED, Geometry, geometry_of, read_size
from app.model_folder import CONFIG, architecture_of, image_processor
from app.weights import read_json

_PUBLISHED: Final = re.compile(r"qwen/(qwen3-vl-(?:2|4|8|32)b)-.*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A model whose sizes are known."""

    geometry: Geometry
    source: str
    """Where from, for people."""
    least_pixels: int
    most_pixels: int
    """Areas that pictures are enlarged to, and shrunk to."""

    def picture_tokens(self, width: int, height: int) -> int:
        """Tokens of a picture of so many pixels."""
        step = self.geometry.patch * self.geometry.merge
        wide, high = read_size(width, height, step=step, min_pixels=self.least_pixels, max_pixels=self.most_pixels)
        return (wide // step) * (high // step)


def known(base: str) -> Known | None:
    """What is known of a base: by its folder, by the hub's cache here, by the name of a published one; else None."""
    if base.startswith("/"):
        return _of_folder(Path(base), f"{base}/{CONFIG}")
    folder = _cached(base)
    if folder is not None and (found := _of_folder(folder, f"the hub's cache of {base}")) is not None:
        return found
    if (match := _PUBLISHED.fullmatch(base)) is None:
        return None
    name = match[1].lower()
    return Known(
        geometry=PUBLISHED[name],
        source=f"the published sizes of {base}",
        least_pixels=LEAST_PX**2,
        most_pixels=MOST_PX**2,
    )


def _of_folder(folder: Path, source: str) -> Known | None:
    try:
        config = read_json(folder / CONFIG)
        architecture_of(folder, config)
        geometry, pictures = geometry_of(config, source), image_processor(folder)
    except BadModel:  # whoever loads it says what is wrong
        return None
    size = pictures.get("size")
    size = size if isinstance(size, dict) else {}
    least, most = pictures.get("min_pixels") or size.get("shortest_edge"), pictures.get("max_pixels") or size.get("longest_edge")
    if not isinstance(least, int) or not isinstance(most, int):
        return None
    return Known(geometry=geometry, source=source, least_pixels=least, most_pixels=most)


def _cached(hub_id: str) -> Path | None:
    """The newest snapshot of a model in the hub's cache on this machine."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    try:
        found = [path for path in cache.iterdir() if (path / CONFIG).is_file()]
    except OSError:
        return None
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
