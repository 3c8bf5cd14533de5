"""Seeds as people write them: "0-9", "0,3,7-9", 5, [0, 1], ["0-4", 9]."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

MAX_SEED = 2**31 - 1
MAX_SEEDS = 100_000

_RANGE = re.compile(r"([0-9]+)(?:\s*-\s*([0-9]+))?", re.ASCII)


def parse_seeds(text: object) -> list[int]:
    """The seeds that ``text`` means, sorted, each once. Raises ValueError with a sentence."""
    seeds: set[int] = set()
    for first, last in _ranges(text):
        if last - first >= MAX_SEEDS:
            raise ValueError(f"seeds {first}-{last} are {last - first + 1:,} seeds; one spec takes at most {MAX_SEEDS:,}")
        seeds.update(range(first, last + 1))
        if len(seeds) > MAX_SEEDS:
            raise ValueError(f"more than {MAX_SEEDS:,} seeds; one spec takes at most that many")
    if not seeds:
        raise ValueError('no seeds; write one such as 0, a range such as "0-9", or a list such as [0, 3, 7]')
    return sorted(seeds)


def format_seeds(seeds: Iterable[int]) -> str:
    """The shortest text that ``parse_seeds`` reads as these seeds: ``0-2,5``."""
    runs: list[list[int]] = []
    ordered = sorted(set(seeds))
    for before, seed in pairwise([-2, *ordered]):
        if seed == before + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _ranges(value: object) -> Iterable[tuple[int, int]]:
    if isinstance(value, str):
        yield from (_range(piece) for piece in value.split(",") if piece.strip() or _refuse_gap(value))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield _seed(value, str(value)), value
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, list | tuple):
                raise ValueError(f"a list of seeds holds numbers and ranges, not another list: {item!r:.60}")
            yield from _ranges(item)
    else:
        raise ValueError(f'{value!r:.60} are no seeds; write a number, a range such as "0-9", or a list such as [0, 3, 7]')


def _refuse_gap(text: str) -> bool:
    if not text.strip():
        raise ValueError('no seeds; write one such as "0" or a range such as "0-9"')
    raise ValueError(f"seeds {text[:60]!r} have nothing between two commas")


def _range(piece: str) -> tuple[int, int]:
    shown = piece.strip()[:60]
    match = _RANGE.fullmatch(piece.strip())
    if match is None:
        raise ValueError(f"seeds {shown!r} cannot be read; write whole numbers from 0 and ranges, such as 0,3,7-9")
    low, high = match[1], match[2] or match[1]
    if max(len(low), len(high)) > 20:
        raise ValueError(f"seed {shown!r} is too large; a seed is 0 to {MAX_SEED}")
    first, last = _seed(int(low), shown), _seed(int(high), shown)
    if last < first:
        raise ValueError(f"seeds {shown!r} runs backwards; write {last}-{first}")
    return first, last


def _seed(seed: int, shown: str) -> int:
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {shown[:60]} is out of range; a seed is 0 to {MAX_SEED}")
    return seed


def _read(value: Any) -> tuple[int, ...]:
    return tuple(parse_seeds(value))


Seeds = Annotated[
    tuple[int, ...],
    Field(strict=False),
    BeforeValidator(_read, json_schema_input_type=int | str | list[int | str]),
]
"""A field of seeds: any of the spellings above; holds them sorted, each once."""
