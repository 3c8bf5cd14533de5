"""The scripted policy: a rule-based player of Crafter, which knows as much of the world as its variant says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from app.errors import BadSnapshot, InvalidInput, UnknownName
from app.records import EpisodeKey, Reply
from workers.rollout.actions import MAX_ACTIONS, format_reply
from workers.rollout.envs.base import Environment
from workers.rollout.policies.base import Request
from workers.rollout.policies.scripted.hands import Decision
from workers.rollout.policies.scripted.minds import Mind, Omniscient, Reactive, Visible

MINDS: dict[str, Callable[[], Mind]] = {"omniscient": Omniscient, "visible": Visible, "reactive": Reactive}
GENERATION = 2
"""Counts up whenever one of them could play the same episode in another way."""
PLAYS = "crafter"
"""The environment whose rules it knows."""


class Scripted:
    """No chance in it: the same episode always gives the same play. ``Reply.notes["goal"]`` tells what each action is for.

    ``variant``: ``omniscient`` knows the whole map and all that lives on it; ``visible`` sees what the picture shows, and
    remembers it; ``reactive`` decides on each frame alone. ``open_loop_k``: the most actions that it plans from one frame, 1 to
    8; it plans fewer where it cannot tell what comes, and no more than 1 before fights and sleep.
    """

    name = "scripted"
    model = None
    needs_messages = False

    def __init__(self, *, variant: str = "visible", open_loop_k: int = 1) -> None:
        if variant not in MINDS:
            raise UnknownName("variant of the policy 'scripted'", variant, MINDS)
        if isinstance(open_loop_k, bool) or not isinstance(open_loop_k, int) or not 1 <= open_loop_k <= MAX_ACTIONS:
            raise InvalidInput(f"open_loop_k must be a whole number from 1 to {MAX_ACTIONS}, not {open_loop_k!r}")
        self.variant = variant
        self.open_loop_k = open_loop_k
        self.version = f"scripted-{GENERATION}-{variant}"
        self._mind = MINDS[variant]()

    def begin(self, env: Environment, key: EpisodeKey, *, sampling_seed: int) -> None:
        """Forget everything. Nothing is drawn, so the key and the seed decide nothing. Raises InvalidInput for another game."""
        if env.name != PLAYS:
            raise InvalidInput(f"the policy 'scripted' plays {PLAYS} only, not {env.name!r}")
        self._mind = MINDS[self.variant]()

    async def reply(self, request: Request) -> Reply:
        """Look, decide, and say the actions in the reply format of the request."""
        if self.open_loop_k > request.options.max_actions:
            raise InvalidInput(f"open_loop_k = {self.open_loop_k} is more than max_actions = {request.options.max_actions}")
        self.observe(request.env)
        decisions = self.decide()
        actions = [action for action, _ in decisions]
        self.expect(actions)
        said = format_reply(actions, request.options.reply_format)
        notes = {"goal": goal_of(decisions)}
        return Reply(text=said.text, tool_calls=said.tool_calls, policy_version=self.version, notes=notes)

    def observe(self, env: Environment) -> None:
        """Look at the world as it is now, without touching it."""
        self._mind.observe(env)

    def decide(self) -> list[Decision]:
        """The next actions after a look, 1 to ``open_loop_k``, each with its goal."""
        return self._mind.decide(self.open_loop_k)

    def expect(self, actions: Sequence[str]) -> None:
        """Be told what is done next, whoever chose it; to be followed by a look."""
        self._mind.expect(actions)

    def snapshot(self) -> bytes:
        """What is remembered, as JSON; of the reactive player only the version."""
        return json.dumps({"policy": self.version} | self._mind.to_json(), separators=(",", ":")).encode()

    def restore(self, snapshot: bytes) -> None:
        """Remember what a snapshot tells."""
        mind = MINDS[self.variant]()
        try:
            value = json.loads(snapshot)
            if value["policy"] != self.version:
                raise BadSnapshot(f"this is a snapshot of {value['policy']!r}; {self.version!r} cannot go on from it")
            mind.recall(value)
        except (ValueError, KeyError, TypeError):
            raise BadSnapshot("these bytes are no snapshot of the scripted policy") from None
        self._mind = mind

    async def close(self) -> None:
        """Nothing is held."""


def goal_of(decisions: Sequence[Decision]) -> str:
    """The goals of a turn's actions in words, each once."""
    return ", then ".join(dict.fromkeys(goal for _, goal in decisions))
