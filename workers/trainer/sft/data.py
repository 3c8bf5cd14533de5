"""A file of lines as samples by number: all of them looked at once, each made again when it is wanted.

A sample with its pictures as the vision tower reads them is far larger than its line, so only as many are kept as fit into a
budget; what is kept of the others is where their line stands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from app.errors import BadDataset, InvalidInput, Problem
from workers.model.cache import Cache
from workers.model.inputs import ID_BYTES
from workers.trainer.samples import Sample
from workers.trainer.sft import MOST_TOLD
from workers.trainer.sft.lines import Liner, Reading

SAMPLE_BYTES: Final = 1 << 30
"""What samples that are kept may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a sample may be."""

    tokens: int
    too_long: Literal["refuse", "drop"] = "refuse"
    lines: int | None = None
    """Read the first so many lines alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A sample that is not in memory."""

    line: int
    """1-based."""
    at: int
    """Where its line begins in the file, in bytes."""
    part: int
    """Which sample of its line it is."""
    tokens: int
    targets: int
    pictures: int
    group: str
    """What it must not be parted from: lines of one seed show the same world."""


class Data:
    """The samples of one file."""

    def __init__(
        self,
        path: Path,
        name: str,
        by: Reading,
        limits: Limits,
        *,
        after_line: Callable[[int], None] = lambda line: None,
        budget: int = SAMPLE_BYTES,
    ) -> None:
        """Look at every line; ``name`` is what messages call the file. ``after_line`` is called with the number of each.

        Raises BadDataset for samples that this model cannot learn from, the first of them each with its line.
        """
        self.path, self.name, self._liner = path, name, Liner(by)
        self.dropped = 0
        """Samples that were left out because they are too long."""
        self.lines = 0
        """Lines that were read."""
        self._kept: Cache[int, Sample] = Cache(budget)
        most = min(limits.tokens, by.max_length)
        with path.open("rb") as file:
            self.entries = tuple(self._look(file, limits, most, after_line))

    def _look(self, file: BinaryIO, limits: Limits, most: int, after_line: Callable[[int], None]) -> Iterator[Entry]:
        problems: list[Problem] = []
        count = at = made = 0
        while (limits.lines is None or self.lines < limits.lines) and (content := file.readline()):
            self.lines += 1
            try:
                line = json.loads(content)
                for part, sample in enumerate(self._liner.samples(line, self._key(self.lines))):
                    if len(sample.ids) <= most:
                        self._keep(made, sample)
                        made += 1
                        yield _entry(line, sample, self.lines, at, part)
                    elif limits.too_long == "drop":
                        self.dropped += 1
                    else:
                        raise InvalidInput(_too_long(len(sample.ids), limits.tokens, most))
            except InvalidInput as error:
                count += 1
                if count <= MOST_TOLD:
                    problems.append(Problem(key="", message=str(error), file=self.name, line=self.lines))
            at += len(content)
            after_line(self.lines)
        if problems:
            raise BadDataset(problems, total=count, lines=self.lines)

    def _key(self, line: int) -> str:
        return f"{self.name}:{line}"

    def __len__(self) -> int:
        return len(self.entries)

    def sample(self, number: int) -> Sample:
        """A sample by its number among ``entries``."""
        if (held := self._kept.get(number)) is not None:
            return held
        entry = self.entries[number]
        with self.path.open("rb") as file:
            file.seek(entry.at)
            content = file.readline()
        made = self._liner.samples(json.loads(content), self._key(entry.line))[entry.part]
        self._keep(number, made)
        return made

    def _keep(self, number: int, sample: Sample) -> None:
        size = ID_BYTES * len(sample.ids) + sum(picture.patches.nbytes for picture in sample.pictures)
        self._kept.put(number, sample, size)


def _entry(line: dict[str, object], sample: Sample, number: int, at: int, part: int) -> Entry:
    metadata = line.get("metadata")
    seed = metadata.get("seed") if isinstance(metadata, dict) else None
    group = f"line {number}" if seed is None else f"seed {seed}"
    return Entry(
        line=number,
        at=at,
        part=part,
        tokens=len(sample.ids),
        targets=len(sample.targets),
        pictures=len(sample.pictures),
        group=group,
    )


def _too_long(tokens: int, asked: int, most: int) -> str:
    limit = f"sequence_length is {asked}" if most == asked else f"the model takes {most}"
    way_out = "raise it, or " if most == asked else ""
    return f'it is {tokens} tokens, and {limit}; {way_out}write too_long = "drop" to leave such lines out'


def kept_apart(entries: Sequence[Entry], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers to learn from, and numbers to be tried on: the share ``fraction`` of the groups, one at the least.

    Raises InvalidInput where there are not two groups.
    """
    groups = sorted({entry.group for entry in entries}, key=lambda group: _draw(group, seed))
    if len(groups) < 2:
        raise InvalidInput(
            f"validation.fraction = {fraction:g} keeps seeds apart, and all lines are of one ({', '.join(groups)}); "
            "give more, or validation.data"
        )
    apart = set(groups[: min(max(1, round(fraction * len(groups))), len(groups) - 1)])
    train = [i for i, entry in enumerate(entries) if entry.group not in apart]
    return train, [i for i, entry in enumerate(entries) if entry.group in apart]


def _draw(group: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
