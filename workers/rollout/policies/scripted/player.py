"""The scripted policy: a rule-based player of Crafter that sees only what the picture shows, and remembers it."""

from __future__ import annotations

import json

from app.errors import BadSnapshot
from app.records import EpisodeKey, Reply
from workers.rollout.actions import format_reply
from workers.rollout.envs.base import Environment
from workers.rollout.policies.base import Request
from workers.rollout.policies.scripted.goals import Goals
from workers.rollout.policies.scripted.hands import Decision
from workers.rollout.policies.scripted.memory import Memory
from workers.rollout.policies.scripted.sight import look


class Scripted:
    """One action a turn, no chance in it: the same episode always gives the same play. ``Reply.notes`` tells its goal."""

    name = "scripted"
    version = "scripted-1"
    needs_messages = False

    def __init__(self) -> None:
        self._memory = Memory()
        self._goals = Goals()

    def begin(self, env: Environment, key: EpisodeKey, *, sampling_seed: int) -> None:
        """Forget everything. Nothing is drawn, so the key and the seed decide nothing."""
        self._memory = Memory()
        self._goals = Goals()

    async def reply(self, request: Request) -> Reply:
        """Look, decide, and say the action in the reply format of the request."""
        action, goal = self.act(request.env)
        said = format_reply([action], request.options.reply_format)
        return Reply(text=said.text, tool_calls=said.tool_calls, policy_version=self.version, notes={"goal": goal})

    def act(self, env: Environment) -> Decision:
        """The next action in this world, and the goal that it serves."""
        sight = look(env)
        self._memory.look(sight)
        action, goal = self._goals.decide(sight, self._memory)
        self._memory.expect(action, sight)
        return action, goal

    def snapshot(self) -> bytes:
        """Map, creatures, plan: as JSON."""
        value = {"policy": self.version, "memory": self._memory.to_json(), "goals": self._goals.to_json()}
        return json.dumps(value, separators=(",", ":")).encode()

    def restore(self, snapshot: bytes) -> None:
        """Remember what a snapshot tells."""
        try:
            value = json.loads(snapshot)
            if value["policy"] != self.version:
                raise BadSnapshot(f"this is a snapshot of {value['policy']!r}; {self.version!r} cannot go on from it")
            memory, goals = Memory.from_json(value["memory"]), Goals.from_json(value["goals"])
        except (ValueError, KeyError, TypeError):
            raise BadSnapshot("these bytes are no snapshot of the scripted policy") from None
        self._memory, self._goals = memory, goals
