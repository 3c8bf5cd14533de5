"""A policy that makes every mistake that a model makes, at fixed turns: for benchmarks and tests of what filters throw away."""

from __future__ import annotations

import json

from app.errors import Unavailable
from app.records import Reply, ToolCall
from workers.rollout.actions import TOOL
from workers.rollout.policies.base import Request
from workers.rollout.policies.random import Random

NAME = "sloppy"
PLACE = "benchmarks.sloppy:Sloppy"
CYCLE = 13
BREAKS_AT = 15
"""The turn at which every seed that ends in 3 breaks."""
PACES = range(20, 40)
"""Turns in which odd seeds walk to and fro."""


class Sloppy(Random):
    """Random, but of 13 turns one is prose, one a call that is no JSON, one an unknown action, one is empty, three are noops."""

    name = NAME
    version = "sloppy-1"
    model = "sloppy-1b"
    needs_messages = True

    async def reply(self, request: Request) -> Reply:
        assert self._key is not None, "it has begun"
        if self._key[2] % 10 == 3 and request.index == BREAKS_AT:
            raise Unavailable("the endpoint went away")
        if self._key[2] % 2 and request.index in PACES:
            return _call(json.dumps({"actions": [("move_left", "move_right")[request.index % 2]]}))
        replies = {
            2: Reply(text="I think I should look for a tree first.", policy_version=self.version),
            4: _call("{actions: [do"),
            6: _call('{"actions": ["fly"]}'),
            8: Reply(policy_version=self.version),
            **dict.fromkeys((10, 11, 12), _call('{"actions": ["noop"]}')),
        }
        return replies.get(request.index % CYCLE) or await super().reply(request)


def _call(arguments: str) -> Reply:
    return Reply(tool_calls=(ToolCall(name=TOOL, arguments=arguments),), policy_version=Sloppy.version)
