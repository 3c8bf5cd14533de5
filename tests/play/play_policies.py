"""Policies of another package, for tests of play: they answer badly, look at pictures, and break when they are told to."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlmodel import select

from app import db, lifecycle
from app.errors import StepFailed
from app.models import Job, Step
from app.records import EpisodeKey, ImagePart, Reply
from app.settings import get_settings
from workers.rollout.envs.base import Environment
from workers.rollout.policies import Request
from workers.rollout.policies.random import Random
from workers.runner import drain_file


class Says:
    """Gives the replies of a list, one a turn, and keeps what it was asked."""

    name = "says"
    version = "says-1"
    model = None

    def __init__(self, *replies: Reply, needs_messages: bool = True) -> None:
        self.replies = replies
        self.needs_messages = needs_messages
        self.requests: list[Request] = []
        self.closed = False

    def begin(self, env: Environment, key: EpisodeKey, *, sampling_seed: int) -> None:
        self.requests = []

    async def reply(self, request: Request) -> Reply:
        self.requests.append(request)
        return self.replies[request.index]

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        self.requests = []

    async def close(self) -> None:
        self.closed = True


class Babbler(Random):
    """Two random actions a turn; every third reply cannot be read, and every seventh never comes."""

    name = "babbler"
    version = "babbler-1"
    needs_messages = True

    def __init__(self) -> None:
        super().__init__(actions_per_turn=2)

    async def reply(self, request: Request) -> Reply:
        if request.index % 7 == 6:
            return Reply(finish="error", notes={"error": "the line is dead"}, policy_version=self.version)
        if request.index % 3 == 2:
            return Reply(text="let us go <|im_start|>left, then [do]", policy_version=self.version)
        return await super().reply(request)


class Seer(Random):
    """Random, but it looks at the picture of its prompt first, and tells the hash of the bytes that it saw."""

    name = "seer"
    version = "seer-1"
    needs_messages = True

    async def reply(self, request: Request) -> Reply:
        said = await super().reply(request)
        shown = [part.sha256 for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
        if shown and request.frames is None:
            raise StepFailed("the prompt shows a picture, and there are no bytes of it")
        seen = [hashlib.sha256(request.frames(sha256)).hexdigest() for sha256 in shown if request.frames]
        return Reply(text=said.text, tool_calls=said.tool_calls, policy_version=self.version, notes={"seen": seen})


class Fragile(Random):
    """Random, until trouble comes: what ``make_trouble`` wrote happens at its seed and turn, once or each time."""

    name = "fragile"
    version = "fragile-1"

    async def reply(self, request: Request) -> Reply:
        assert self._key is not None
        seed = self._key[2]
        with (get_settings().home / "asked").open("a") as asked:
            asked.write(f"{seed} {request.index}\n")
        trouble = _trouble()
        if trouble and (trouble["seed"], trouble["turn"]) == (seed, request.index):
            if trouble["once"]:
                _file().unlink()
            _HAPPENS[trouble["what"]]()
        if (slow := get_settings().home / "slow").exists():
            await asyncio.sleep(float(slow.read_text()))
        return await super().reply(request)


class Dawdler(Fragile):
    """As ``fragile``, but it takes its time as a model does, so that others play meanwhile; it notes how many do."""

    name = "dawdler"
    version = "dawdler-1"
    model = "dawdling"
    under_way = most = 0

    async def reply(self, request: Request) -> Reply:
        Dawdler.under_way += 1
        Dawdler.most = max(Dawdler.most, Dawdler.under_way)
        try:
            await asyncio.sleep(self.draw(request.index, ("0", "1", "2", "3"))[0].count("3") * 0.001)
            return await super().reply(request)
        finally:
            Dawdler.under_way -= 1


def _file() -> Path:
    return get_settings().home / "trouble.json"


def make_trouble(what: str, *, seed: int, turn: int, once: bool = True) -> None:
    """Tell ``Fragile`` what happens at a turn; ``once`` or whenever it comes there."""
    _file().write_text(json.dumps({"what": what, "seed": seed, "turn": turn, "once": once}))


def end_trouble() -> None:
    """From here on nothing happens, and no turn takes long."""
    for file in (_file(), get_settings().home / "slow"):
        file.unlink(missing_ok=True)


def asked() -> list[tuple[int, int]]:
    """Every (seed, turn) that ``Fragile`` was asked for, in order, over all processes of this home."""
    lines = (get_settings().home / "asked").read_text().splitlines()
    return [(int(seed), int(turn)) for seed, turn in map(str.split, lines)]


def _trouble() -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(_file().read_text())
        return found
    except FileNotFoundError:
        return None


def _break() -> None:
    raise RuntimeError("the dice fell off the table")


def _refuse() -> None:
    raise StepFailed("the dice are not for sale")


def _lose_the_database() -> None:
    raise OperationalError("select 1", {}, Exception("the server went away"))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _slow_down(seconds: float = 0.02) -> None:
    """Let every turn from now on take its time: by default, so that the rest of the episode outlasts the keeper's next look."""
    (get_settings().home / "slow").write_text(str(seconds))


def _drain(seconds: float = 0.02) -> None:
    drain_file().parent.mkdir(parents=True, exist_ok=True)
    drain_file().touch()
    _slow_down(seconds)


def _drain_in_a_long_turn() -> None:
    _drain(600)


def _cancel(seconds: float = 0.02) -> None:
    with db.writing() as session:
        lifecycle.cancel(session, session.exec(select(Job)).one())
    _slow_down(seconds)


def _cancel_in_a_long_turn() -> None:
    _cancel(600)


def _lose_the_step() -> None:
    with db.writing() as session:
        step = session.exec(select(Step).where(Step.state == "running")).one()
        lifecycle.lose_step(session, step.id, step.fence, "its lease ran out")


_HAPPENS = {
    "break": _break,
    "refuse": _refuse,
    "database": _lose_the_database,
    "die": _die,
    "drain": _drain,
    "drain in a long turn": _drain_in_a_long_turn,
    "cancel": _cancel,
    "cancel in a long turn": _cancel_in_a_long_turn,
    "lose": _lose_the_step,
    "slow": _slow_down,
}
