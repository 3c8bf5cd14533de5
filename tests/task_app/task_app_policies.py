"""Policies of another package, for tests of the task app."""

from __future__ import annotations

import asyncio

from app.errors import EngineFailed
from app.records import Reply
from workers.rollout.policies import Request
from workers.rollout.policies.random import Random


class Stuck(Random):
    """Answers two turns, then never again."""

    name = "stuck"
    version = "stuck-1"

    async def reply(self, request: Request) -> Reply:
        if request.index == 2:
            await asyncio.sleep(3600)
        return await super().reply(request)


class Broken(Random):
    """Answers two turns; then its endpoint is gone."""

    name = "broken"
    version = "broken-1"

    async def reply(self, request: Request) -> Reply:
        if request.index == 2:
            raise EngineFailed("the endpoint is gone")
        return await super().reply(request)


class Bug(Random):
    """Has a bug in its second turn."""

    name = "bug"
    version = "bug-1"

    async def reply(self, request: Request) -> Reply:
        return Reply(text=["a"][request.index])


class Mumbler(Random):
    """Every second reply cannot be read."""

    name = "mumbler"
    version = "mumbler-1"

    async def reply(self, request: Request) -> Reply:
        return Reply(text="well...") if request.index % 2 else await super().reply(request)
