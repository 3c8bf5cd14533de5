"""What an environment is: a seeded world with named actions that gives frames, status and achievements. One object, one seat.

An environment is synchronous, single-threaded and deterministic: (seed, actions) decide everything, in any process. What is
rendered, or not, never changes what happens. Nothing here knows of prompts, policies or rewards other than the world's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from workers.transport.pixels import Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one action did."""

    reward: float
    """The world's own reward."""
    unlocked: tuple[str, ...]
    """Achievements that this action unlocked for the first time in the episode."""
    terminated: bool
    """The world ended the episode, by death for example."""
    truncated: bool
    """The episode reached its length. Never true together with ``terminated``."""
    changed: bool
    """False when the action had no effect at all (a blocked move, a craft without material)."""


@runtime_checkable
class Environment(Protocol):
    """One world and the player in it. The contract tests in tests/envs hold every registered environment to this."""

    name: str
    version: str
    """Counts up whenever the same seed and actions could give something else."""
    actions: tuple[str, ...]
    achievements: tuple[str, ...]

    def reset(self, seed: int) -> None:
        """Begin the episode of this seed. The same seed gives the same episode, however often it is asked for."""

    def step(self, action: str) -> StepResult:
        """Carry out one action. Raises UnknownAction, or EpisodeOver after the end."""

    def frame(self) -> Pixels:
        """The present picture, uint8 [height, width, 3]. Free of side effects; asked twice it gives the same pixels."""

    def status(self) -> dict[str, Any]:
        """What a text prompt may tell of the present state: only what the picture shows to a good eye. JSON-able."""

    def unlocked(self) -> dict[str, int]:
        """Achievements unlocked so far, each with the number of game steps after which it was (1 = by the first action)."""

    def inventory(self) -> dict[str, int]:
        """What the player has and how it fares, by name."""

    @property
    def length(self) -> int:
        """Game steps played in this episode."""

    @property
    def ended(self) -> str | None:
        """None while the episode runs; else how it ended: ``died``, ``length`` or another word of the environment."""

    def rules(self, level: str) -> str:
        """What a player needs to know: level ``short`` or ``full``. ``none`` is the prompt builder's business."""

    def describe(self, status: dict[str, Any]) -> str:
        """The present state in words, from ``status()``."""

    def state_sha256(self) -> str:
        """Hash of everything that decides the future: equal hashes, equal futures."""

    def snapshot(self) -> bytes:
        """The whole running episode, to go on from later, elsewhere."""

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot, bit for bit. Raises BadSnapshot."""
