"""What a model is given: token ids and pictures, ready for the tower. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Patches = NDArray[np.float32]
"""[t * h * w, channels * temporal * patch * patch], in the order of the processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as the vision tower reads it."""

    sha256: str
    """Of the PNG bytes that it was made from."""
    grid: tuple[int, int, int]
    """Patches in time, height and width, before the merge."""
    make: Callable[[], Patches] = field(compare=False, repr=False)
    """Gives its patches; whoever has what a tower made of the picture need not ask for them."""

    @property
    def patches(self) -> Patches:
        """What the tower reads."""
        return self.make()

    def tokens(self, merge: int) -> int:
        """How many tokens it has in a prompt, where ``merge`` x ``merge`` patches become one."""
        return self.grid[0] * self.grid[1] * self.grid[2] // merge**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as the language model reads it."""

    ids: tuple[int, ...]
    """Token ids; each picture stands as as many image tokens as it has."""
    pictures: tuple[Picture, ...] = ()
    """In the order in which they stand in ``ids``."""
