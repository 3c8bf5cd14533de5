"""How the trainer's worker and its child speak: objects of JSON, one a line, both ways over one socket."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

READ_BYTES: Final = 1 << 16
LAST_WORDS: Final = "synthq last words: "
"""Begins the line that a process without the wire prints before it ends all of them; then JSON, a text: why."""


class Wire:
    """One end. ``send`` may be called from any thread, ``receive`` from one."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._arrives = select.poll()  # a timeout of the socket itself would cut a ``send`` of another thread short
        self._arrives.register(end, select.POLLIN)
        self._kept = bytearray()
        """What came after the last whole line."""
        self._sending = threading.Lock()

    def send(self, said: Mapping[str, Any]) -> None:
        """Raises OSError when the other end is gone, TypeError for what is no JSON."""
        line = json.dumps(said, separators=(",", ":")).encode() + b"\n"
        with self._sending:
            self._socket.sendall(line)

    def receive(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """The next object; None when none came in time. Raises EOFError when the other end is gone."""
        while (end := self._kept.find(b"\n")) < 0:
            if not self._arrives.poll(None if timeout_s is None else timeout_s * 1000):
                return None
            try:
                read = self._socket.recv(READ_BYTES)
            except OSError:  # it was closed here, or reset there
                read = b""
            if not read:
                raise EOFError
            self._kept += read
        line = bytes(self._kept[:end])
        del self._kept[: end + 1]
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        """The other end meets the end of file; a ``receive`` that waits here does too."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
