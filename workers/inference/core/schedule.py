"""Which prompts go through the model together. Numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WASTE: Final = 256
"""Tokens of padding that cost about what one more forward costs."""


def groups(lengths: Sequence[int], *, most_tokens: int) -> list[list[int]]:
    """Places in ``lengths``, in groups of similar length, the shortest first.

    A group is padded to its longest and is not beyond ``most_tokens`` with that, unless it is one prompt. A longer prompt joins
    when the padding that it adds to the others costs less than a forward of its own.
    """
    made: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[place]
        if made and len(made[-1]) * (length - longest) <= WASTE and (len(made[-1]) + 1) * length <= most_tokens:
            made[-1].append(place)
        else:
            made.append([place])
        longest = length
    return made


def admitted(lengths: Sequence[int], *, rows: int, most_tokens: int) -> int:
    """How many of those that wait begin now: as many as there are rows and tokens for, and one whatever its length."""
    total = 0
    for count, length in enumerate(lengths[:rows]):
        total += length
        if count and total > most_tokens:
            return count
    return min(rows, len(lengths))
