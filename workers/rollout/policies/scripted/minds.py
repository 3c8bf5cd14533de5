"""The three ways to know the world, one class each: everything, what was seen so far, or one frame and nothing else.

A mind observes, decides on one action or on several in a row, and is told what was really done. It never steps the world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from workers.rollout.envs.base import Environment
from workers.rollout.policies.scripted import sight
from workers.rollout.policies.scripted.belief import foresee, view_from
from workers.rollout.policies.scripted.goals import Goals
from workers.rollout.policies.scripted.hands import Decision
from workers.rollout.policies.scripted.memory import Memory
from workers.rollout.policies.scripted.paths import unseen_around
from workers.rollout.policies.scripted.sight import Glance, Sight, Survey

WAITING = ("sleep", "noop")
"""What nobody goes on with without a look: it is done for something to change."""


class Mind(Protocol):
    """One way to know the world."""

    def observe(self, env: Environment) -> None:
        """Look at the world as it is now."""

    def decide(self, most: int = 1) -> list[Decision]:
        """What to do next: one action, or up to ``most`` that are planned without another look."""

    def expect(self, actions: Sequence[str]) -> None:
        """Be told what is done after the last look, by whomever."""

    def to_json(self) -> dict[str, Any]:
        """All that is remembered between turns, as plain JSON values."""

    def recall(self, value: dict[str, Any]) -> None:
        """Remember what ``to_json`` told."""


S = TypeVar("S", bound=Sight)


class _Remembering(Generic[S]):
    """Goals over a memory."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.goals = Goals()
        self.sight: S | None = None

    def decide(self, most: int = 1) -> list[Decision]:
        """Plan on a copy of the memory for as long as it is certain what an action does.

        Nothing new is taken up where ground that was never seen would have come into sight.
        """
        now: S = self._seen()
        decisions = [self.goals.decide(now, self.memory)]
        belief = self.memory.copy() if most > 1 else self.memory
        while len(decisions) < most:
            now, certain = foresee(now, belief, decisions[-1][0])
            if not certain:
                break
            goals = self.goals.copy()
            decision = goals.decide(now, belief)
            taken_up = goals.plan is not None and goals.plan.since == belief.steps
            if decision[0] in WAITING or (taken_up and unseen_around(belief, belief.at)[0]):
                break
            self.goals = goals
            decisions.append(decision)
        return decisions

    def expect(self, actions: Sequence[str]) -> None:
        """Do the same in memory."""
        now = self._seen()
        for action in actions:
            now, _ = foresee(now, self.memory, action)
        self.sight = None

    def _seen(self) -> S:
        if self.sight is None:
            raise RuntimeError("a mind must observe before it decides, and again after it was told what is done")
        return self.sight


class Visible(_Remembering[Sight]):
    """Sees what the picture shows, and remembers it."""

    def observe(self, env: Environment) -> None:
        """Take in what is in view."""
        self.sight = sight.look(env)
        self.memory.look(self.sight)

    def to_json(self) -> dict[str, Any]:
        """Map, creatures, plan."""
        return {"memory": self.memory.to_json(), "goals": self.goals.to_json()}

    def recall(self, value: dict[str, Any]) -> None:
        """Remember what ``to_json`` told."""
        self.memory, self.goals, self.sight = Memory.from_json(value["memory"]), Goals.from_json(value["goals"]), None


class Omniscient(_Remembering[Survey]):
    """Knows the whole map and all creatures at every look, so only its plan lasts."""

    def observe(self, env: Environment) -> None:
        """Take over all there is."""
        self.sight = sight.survey(env)
        self.memory.survey(self.sight)

    def to_json(self) -> dict[str, Any]:
        """The plan, and the steps since the beginning, which date it."""
        return {"steps": self.memory.steps, "goals": self.goals.to_json()}

    def recall(self, value: dict[str, Any]) -> None:
        """Remember what ``to_json`` told."""
        self.memory, self.goals, self.sight = Memory(), Goals.from_json(value["goals"]), None
        self.memory.steps = value["steps"]


class Reactive:
    """Knows one frame. Between turns nothing is kept."""

    def __init__(self) -> None:
        from workers.rollout.policies.scripted.reactive import Reactive as Rules

        self._rules = Rules()
        self._glance: Glance | None = None

    def observe(self, env: Environment) -> None:
        """Look at the frame."""
        self._glance = sight.glance(env)

    def decide(self, most: int = 1) -> list[Decision]:
        """Plan on what this one frame shows, as long as that serves the same goal."""
        if self._glance is None:
            raise RuntimeError("a mind must observe before it decides")
        now = self._glance
        decisions = [self._rules.decide(now)]
        belief = Memory()
        if most > 1:
            belief.look(now)
        while len(decisions) < most:
            now, certain = foresee(now, belief, decisions[-1][0])
            if not certain:
                break
            decision = self._rules.decide(replace(now, view=view_from(belief)))
            if decision[0] in WAITING or decision[1] != decisions[-1][1]:
                break
            decisions.append(decision)
        return decisions

    def expect(self, actions: Sequence[str]) -> None:
        """What was done is forgotten."""
        self._glance = None

    def to_json(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def recall(self, value: dict[str, Any]) -> None:
        """There is nothing to remember."""
        self._glance = None
