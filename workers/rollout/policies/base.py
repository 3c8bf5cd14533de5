"""What a policy is: something that answers a request with a reply. One object plays one episode at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from app.records import EpisodeKey, Message, Reply
from workers.rollout.envs.base import Environment
from workers.rollout.prompts import PromptOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a policy is asked at one turn."""

    index: int
    """The turn, from 0."""
    messages: tuple[Message, ...]
    """The prompt. Empty for a policy that does not need it."""
    options: PromptOptions
    """How the reply is read: its format, and the most actions in it."""
    actions: tuple[str, ...]
    """The names of the environment's actions."""
    env: Environment
    """The running world, for policies that look at it. They must not step it."""
    frames: Callable[[str], bytes] | None = None
    """PNG bytes of a frame in ``messages``, by sha256."""


@runtime_checkable
class Policy(Protocol):
    """What chooses actions. Everything that it remembers of an episode is in ``snapshot``."""

    name: str
    version: str
    """Counts up whenever the same episode could be played in another way. Goes into ``Reply.policy_version``."""
    model: str | None
    """The model that answers; None for rules."""
    needs_messages: bool
    """False when play may leave out the prompt, and the frame with it."""

    def begin(self, env: Environment, key: EpisodeKey, *, sampling_seed: int) -> None:
        """Begin an episode that ``env`` has been reset to (or restored to, for a group that starts from a snapshot).

        Every random draw is keyed by ``sampling_seed``, ``key`` and the turn, so the same episode is played the same
        way on any worker, however often it is asked for.
        """

    async def reply(self, request: Request) -> Reply:
        """Answer one turn."""

    def snapshot(self) -> bytes:
        """What this policy remembers of the running episode, to go on from elsewhere."""

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot, in place of ``begin``. Raises BadSnapshot."""

    async def close(self) -> None:
        """Let go of what this policy holds, such as connections. It plays no more."""
