"""What the reactive player can do about the cells around it: face them, use them, put something on them."""

from __future__ import annotations

from functools import cached_property

from workers.rollout.policies.scripted import kinds, needs
from workers.rollout.policies.scripted.hands import Decision
from workers.rollout.policies.scripted.reactive_view import (
    AROUND,
    ARROW,
    CELLS,
    DIGGABLE,
    FOES,
    LEFT,
    ME,
    MOVES,
    NEAR_3X3,
    UP,
    WIDTH,
    Reach,
    entry_costs,
    flood,
    grid,
)
from workers.rollout.policies.scripted.sight import Glance

_DANGERS = FOES | {ARROW}


class ReactiveHands:
    """The player at one glance, with what its hands can reach. Steps are differences between cells."""

    def __init__(self, glance: Glance) -> None:
        self.glance = glance
        self.have = glance.items.get
        self.codes = grid(glance)
        dx, dy = glance.facing
        self.ahead = dy * WIDTH + dx
        """The step to the faced cell; 0 of a sleeper."""
        self.faced = self.codes[ME + self.ahead]
        self.costs = entry_costs(glance.items, dark=glance.dark)

    @cached_property
    def reach(self) -> Reach:
        """Ways from here, worked out when first asked for."""
        return flood(self.codes, self.costs, self.ahead)

    def towards(self, step: int) -> str:
        """The action that brings the player nearer to entering a neighbouring cell. Never ask it for lava."""
        if step != self.ahead or self.open(step):
            return MOVES[step]
        return "place_stone" if self.faced == kinds.WATER else "do"

    def use(self, step: int) -> str:
        """The action that uses a neighbouring cell, or turns to it first."""
        return "do" if step == self.ahead else MOVES[step]

    def open(self, step: int) -> bool:
        """True when the neighbouring cell is free ground with nobody on it."""
        return self.codes[ME + step] in kinds.FREE or self.codes[ME + step] == kinds.UNKNOWN

    def can_close(self) -> bool:
        """True when a stone can be put ahead."""
        placeable = self.faced in kinds.FREE or self.faced in (kinds.WATER, kinds.LAVA)
        return self.ahead != 0 and placeable and self.have("stone", 0) > 0

    def sees(self, kind: int) -> bool:
        """True when this kind is in view."""
        return kind in self.codes

    def watched(self) -> bool:
        """True when a foe or an arrow is in view."""
        return not _DANGERS.isdisjoint(self.codes)

    def cornered(self) -> bool:
        """True in the world's first row and column, where Crafter lets nothing be made."""
        return kinds.OUTSIDE in (self.codes[ME + LEFT], self.codes[ME + UP])

    def near(self, kind: int) -> bool:
        """True when this kind is within the 3x3 cells around the player, and of use there."""
        return any(self.codes[ME + step] == kind for step in NEAR_3X3) and not self.cornered()

    def spots(self, *wanted: int) -> set[int]:
        """Cells from which all these kinds are within the 3x3 cells around."""
        codes = self.codes
        return set.intersection(*({cell + by for cell in CELLS if codes[cell] == kind for by in NEAR_3X3} for kind in wanted))

    def affordable(self, tool: str) -> bool:
        """True when the player lacks the tool and has what it costs."""
        return needs.affordable(self.glance, tool)

    def face_grass(self, goal: str) -> Decision | None:
        """Make a step after which grass is ahead."""
        for step in AROUND:
            if self.open(step) and self.codes[ME + 2 * step] == kinds.GRASS:
                return MOVES[step], goal
        return None

    def put(self, action: str, goal: str, beside: int | None = None) -> Decision | None:
        """Place something on the faced cell, or make a faced cell for it, without leaving ``beside``."""
        codes = self.codes
        if self.ahead and self.faced in kinds.FREE:
            return action, goal
        if self.faced in DIGGABLE and self.costs[self.faced]:
            return "do", goal
        for step in AROUND:
            beyond = codes[ME + 2 * step]
            if codes[ME + step] in DIGGABLE and self.costs[codes[ME + step]]:
                return MOVES[step], goal
            stays = beside is None or any(codes[ME + step + by] == beside for by in NEAR_3X3)
            if self.open(step) and beyond in kinds.FREE and stays:
                return MOVES[step], goal
        return None
