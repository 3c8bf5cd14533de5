"""Where groups of an ``rl`` job begin that do not begin where the world does: in the middle of what somebody played before."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Annotated, Final

from pydantic import Field

from app.specs.base import Clash, Table, Word, Words
from app.specs.draft import shown
from app.specs.sft import JOB

Turn = Annotated[int, Field(ge=1, le=1_000_000)]
Span = Annotated[tuple[Turn, Turn], Field(strict=False)]
LAST: Final = "@last"


class CurriculumTable(Table):
    """Groups that begin in the middle of an episode that a job played: near a reward that the model would never come to."""

    job: Word | None = None
    """The eval or rl job whose episodes are begun from, by id or name. Those of seeds that are for evaluation, or in
    `data.final_seeds`, are left out."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of an iteration's groups that begin there; the others begin where the world begins. Evaluations always do."""
    turns: Span | None = None
    """First and last turn of the episode at which a group may begin, such as [10, 40]; neither this nor `before_end`: any."""
    before_end: Span | None = None
    """In place of `turns`: how many turns before the episode's end, at the least and at the most, such as [5, 30]."""
    back_over: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Iterations in which the starts move back to the world's beginning, in even steps; from then on all groups begin there. No
    value: they stay."""
    policies: Words = ()
    """Begin only from episodes of these policies of the job; none named: of all."""
    min_achievements: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Begin only from episodes that unlocked so many."""

    def checks(self) -> Iterator[Clash]:
        if self.share and self.job is None:
            yield Clash("job", f"is needed with share = {self.share:g}: whose play is to be begun from?")
        if self.job is not None and (self.job == LAST or not JOB.fullmatch(self.job)):
            way_out = "write the job's id or its name"
            yield Clash("job", f"{shown(self.job)} names no job that has played; {way_out}")
        if self.turns is not None and self.before_end is not None:
            yield Clash("before_end", "and turns both say where groups begin; keep one")
        for key in ("turns", "before_end"):
            span = getattr(self, key)
            if span is not None and span[0] > span[1]:
                yield Clash(key, f"[{span[0]}, {span[1]}] runs backwards; write [{span[1]}, {span[0]}]")

    def groups(self, of: int) -> int:
        """How many of an iteration's groups begin there."""
        return int(self.share * of + 0.5)

    def fits(self, turns: int) -> bool:
        """Whether an episode of so many turns has one at which a group may begin."""
        low, high = self._span(turns)
        return low <= high

    def turn(self, turns: int, iteration: int, draw: Random) -> int:
        """The turn at which a group of an iteration begins, of an episode of so many that fits; 0: where the world begins."""
        drawn = draw.randint(*self._span(turns))
        if self.back_over is None:
            return drawn
        return max(0, round(drawn * (1 - iteration / self.back_over)))

    def _span(self, turns: int) -> tuple[int, int]:
        """First and last turn, the first after the world's beginning and the last one that was played."""
        if self.before_end is not None:
            least, most = self.before_end
            return max(1, turns - most), turns - least
        low, high = self.turns or (1, turns)
        return low, min(high, turns - 1)
