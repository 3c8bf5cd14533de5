"""The processes that play. They start when they are first needed, end with this one, and are replaced when they die.

Play holds Python's lock, so a thread that plays would keep the serving thread waiting; a process that plays keeps nobody waiting,
and runs many rollouts at once, for most of them wait for a model. An executor of the standard library would do neither: it cannot
stop what runs, and one process that dies ends them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sys

from app.errors import Unavailable
from app.leash import leashed
from workers.rollout.task_app import wire
from workers.rollout.task_app.wire import Packet

log = logging.getLogger("synthq.task_app")

MOST_AT_ONCE = 256
"""Requests that may be under way; the next is told to come again."""
READ_BYTES = 4 * 1024 * 1024
END_S = 2.0
STOPPING = "the task app is being stopped; the same request may be sent again when it is back"
MODULE = "workers.rollout.task_app.player"


class Player:
    """One process that plays."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.waiting: dict[int, asyncio.Future[Packet]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls) -> Player:
        """A new process; what it is asked before it is ready waits in its pipe."""
        argv = leashed([sys.executable, "-m", MODULE])
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, limit=READ_BYTES))

    async def ask(self, packet: Packet) -> Packet:
        """Ask, and wait for the answer. Raises Unavailable when the process dies; given up, it is told to stop."""
        assert self.process.stdin is not None
        if self.dead:  # it died as it began: nobody reads its pipes any more
            raise self._died()
        future = self.waiting[packet.number] = asyncio.get_running_loop().create_future()
        try:
            await wire.send(self.process.stdin, packet)
            return await future
        except ConnectionError:
            raise self._died() from None
        except asyncio.CancelledError:
            with contextlib.suppress(ConnectionError):
                await wire.send(self.process.stdin, Packet(packet.number, wire.STOP))
            raise
        finally:
            self.waiting.pop(packet.number, None)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                packet = await wire.receive(self.process.stdout)
                future = self.waiting.get(packet.number)
                if future is not None and not future.done():
                    future.set_result(packet)
        self.give_up(self._died())

    def _died(self) -> Unavailable:
        return Unavailable(
            "the process that played this died; what it had played is lost, and the same request may be sent again"
        )

    @property
    def dead(self) -> bool:
        """Whether it takes no more."""
        return self._reading.done() or self.process.returncode is not None

    def give_up(self, why: Unavailable) -> None:
        """Tell everybody who waits that nothing will come."""
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(why)

    async def end(self) -> None:
        """End it: it holds nothing that must be kept."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await asyncio.wait([self._reading], timeout=END_S)
        await self.process.wait()


class Pool:
    """Up to ``size`` processes that play."""

    def __init__(self, size: int) -> None:
        self.size = size or os.cpu_count() or 1
        self._players: list[Player] = []
        self._starting = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._under_way = 0
        self._stopping = False

    async def ask(self, code: int, body: bytes) -> Packet:
        """Have something done by the process that has the least to do. Raises Unavailable."""
        if self._stopping:
            raise Unavailable(STOPPING)
        if self._under_way >= MOST_AT_ONCE:
            raise Unavailable(f"{MOST_AT_ONCE} requests are under way, the most at once; try again")
        self._under_way += 1
        try:
            player = await self._choose()
            return await player.ask(Packet(next(self._numbers), code, body))
        finally:
            self._under_way -= 1

    async def _choose(self) -> Player:
        async with self._starting:
            for dead in [player for player in self._players if player.dead]:
                self._players.remove(dead)
                log.warning("player %d ended (%s); another one takes its place", dead.process.pid, await dead.process.wait())
            least = min(self._players, key=lambda player: len(player.waiting), default=None)
            if least is None or (least.waiting and len(self._players) < self.size):
                least = await Player.start()
                self._players.append(least)
            return least

    def stop(self, within_s: float) -> None:
        """Take nothing new, and tell those who still wait then that nothing will come. In the loop's own thread."""
        self._stopping = True
        asyncio.get_running_loop().call_later(within_s, self._give_up)

    def _give_up(self) -> None:
        for player in self._players:
            player.give_up(Unavailable(STOPPING))

    async def close(self) -> None:
        """End every process."""
        async with self._starting:
            await asyncio.gather(*(player.end() for player in self._players))
            self._players.clear()
