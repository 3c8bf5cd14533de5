"""How the serving process and a playing one talk over pipes: a head of three numbers, then so many bytes. Both ends."""

from __future__ import annotations

import asyncio
import json
import struct
from dataclasses import dataclass
from typing import Any, Final

ROLLOUT, TASKS, STOP = 1, 2, 3
"""What is asked: the body of a rollout; seeds to be described; that what was asked under this number is given up."""
_HEAD: Final = struct.Struct(">QHQ")


@dataclass(frozen=True, slots=True)
class Packet:
    """One message. ``code`` is what is asked on the way there, and an HTTP status on the way back."""

    number: int
    code: int
    body: bytes = b""


async def receive(reader: asyncio.StreamReader) -> Packet:
    """The next packet. Raises IncompleteReadError when the other end is gone."""
    number, code, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    return Packet(number, code, await reader.readexactly(length))


async def send(writer: asyncio.StreamWriter, packet: Packet) -> None:
    """Send a packet whole, and wait while the other end is slow. Raises ConnectionError when it is gone."""
    writer.writelines((_HEAD.pack(packet.number, packet.code, len(packet.body)), packet.body))
    await writer.drain()


def problem(code: str, message: str, errors: list[tuple[str, str]] | None = None) -> dict[str, Any]:
    """The body of every answer that is an error."""
    told: dict[str, Any] = {"code": code, "message": message}
    if errors:
        told["errors"] = [{"key": key, "message": said} for key, said in errors]
    return {"detail": {"error": told}}


def encode(value: Any) -> bytes:
    """A small JSON body."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
