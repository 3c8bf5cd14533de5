"""A process that plays for the task app: many rollouts at once in one event loop. It ends when its pipe does.

python -m workers.rollout.task_app.player
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from typing import Any

from app.errors import SynthqError
from app.logs import set_up_logging
from workers.rollout.task_app import answer, ask, rollout, tasks, wire
from workers.rollout.task_app.wire import Packet
from workers.runner import describe

log = logging.getLogger("synthq.task_app")

READ_BYTES = 4 * 1024 * 1024


async def answer_to(packet: Packet) -> tuple[int, bytes]:
    """HTTP status and JSON for what is asked."""
    try:
        if packet.code == wire.TASKS:
            return 200, wire.encode(await _described(json.loads(packet.body)))
        return 200, answer.encode(await rollout.play(ask.read(packet.body)))
    except ask.BadBody as error:
        return error.status, wire.encode(wire.problem("invalid_request", str(error), error.problems))
    except SynthqError as error:
        # What the task app itself lacks, such as a model's key, fails every try alike: the caller has to ask for something else.
        status = 422 if error.status == 500 else error.status
        return status, wire.encode(wire.problem(error.code, str(error)))
    except Exception as error:
        log.exception("a rollout could not begin")
        return 500, wire.encode(wire.problem("rollout_failed", describe(error)))


async def _described(seeds: list[int]) -> list[dict[str, Any]]:
    found = []
    for seed in seeds:
        found.append(tasks.task_info(seed))
        await asyncio.sleep(0)  # a world takes a while to be made, and others play here
    return found


class Player:
    """The work of one process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """Take what comes until nothing more can come."""
        while True:
            try:
                packet = await wire.receive(self._reader)
            except asyncio.IncompleteReadError:
                break
            if packet.code != wire.STOP:
                self._tasks[packet.number] = asyncio.create_task(self._work(packet))
            elif (running := self._tasks.get(packet.number)) is not None:
                running.cancel()
        for running in list(self._tasks.values()):
            running.cancel()

    async def _work(self, packet: Packet) -> None:
        try:
            status, body = await answer_to(packet)
            async with self._one_at_a_time:
                await wire.send(self._writer, Packet(packet.number, status, body))
        finally:
            del self._tasks[packet.number]


async def serve(stdin: int, stdout: int) -> None:
    """Play for whoever holds the other ends of two pipes."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(READ_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(stdin, "rb", 0))
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(stdout, "wb", 0)
    )
    await Player(reader, asyncio.StreamWriter(transport, protocol, None, loop)).run()


def main() -> None:
    """Take the pipe, and leave stdout to those who print."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the serving process decides
    set_up_logging()
    taken = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asyncio.run(serve(os.dup(sys.stdin.fileno()), taken))


if __name__ == "__main__":
    main()
