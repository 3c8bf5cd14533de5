"""What nothing names: no fault, but bytes that could be free. What is too young to be judged is not counted."""

from __future__ import annotations

from dataclasses import dataclass

from app.retention.policy import Policy
from app.retention.prune import Pruned, Pruner


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """Frames, texts and files without a name."""

    frames: int
    texts: int
    files: int
    bytes: int
    dropped: bool

    @property
    def any(self) -> bool:
        """Whether there is any."""
        return bool(self.frames or self.texts or self.files)


def look(*, drop: bool) -> Waste:
    """Count what nothing names, and drop it if asked."""
    found: Pruned = Pruner(Policy(), dry_run=not drop).run()
    return Waste(
        frames=found.frames,
        texts=found.texts,
        files=found.files,
        bytes=found.frame_bytes + found.file_bytes,
        dropped=drop,
    )
