"""``python -m workers.inference.server``: serve one model until SIGINT or SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from app.engines import TRANSFORMERS, why_not
from app.errors import BadFlag, Conflict, NotHere, SynthqError
from app.logs import set_up_logging
from app.settings import get_settings
from workers.inference.server.app import create_app
from workers.inference.server.options import Options, parse
from workers.inference.server.resident import Resident

STOP_S = 5
"""How long requests that are under way may keep a stopping server."""


class Server:
    """One server process."""

    def __init__(self, options: Options, listening: socket.socket) -> None:
        host, port = listening.getsockname()[:2]
        self._options, self._listening, self._port = options, listening, port
        self._url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._failure: Exception | None = None
        self._loaded = False
        app = create_app(Resident(options, ready=self._ready, failed=self._failed), key=get_settings().engine_key)
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(app, access_log=False, log_config=None, timeout_graceful_shutdown=STOP_S, lifespan="on")
        )

    def run(self) -> int:
        """Serve; the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: None)  # uvicorn raises again what ended it
        self._uvicorn.run(sockets=[self._listening])
        if self._failure is not None:
            return _say(self._failure)
        if not self._loaded:
            sys.stdout.flush()
            os._exit(0)  # the thread that loads is deep in libraries that do not take an ending interpreter well
        return 0

    def _ready(self) -> None:
        self._loaded = True
        if self._options.port_file is not None:
            write_whole(self._options.port_file, f"{self._port}\n")
        told = {"listening": self._url, "model": self._options.model, "pid": os.getpid()}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()

    def _failed(self, error: Exception) -> None:
        self._failure = error
        self._uvicorn.should_exit = True


def listen(options: Options) -> socket.socket:
    """The socket to serve. Raises BadFlag for an address that is none or is open without a key, Conflict for a taken one."""
    host, port = options.host, options.port
    if not get_settings().engine_key:
        from app.auth import is_loopback  # brings the store's libraries; an engine with a key does without them

        if not is_loopback(host):
            raise BadFlag(f"--host {host} is open to others and the engine has no key; set SYNTHQ_ENGINE_KEY")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except socket.gaierror as error:
        raise BadFlag(f"--host {host} is no address ({error.strerror}); 127.0.0.1 is this machine alone") from None
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise Conflict(f"port {port} of {host} cannot be had ({why}); --port 0 takes any free one") from None


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or none."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def main(argv: Sequence[str]) -> int:
    """Serve."""
    signal.signal(signal.SIGTERM, _end)  # until the server has its own
    try:
        options = parse(argv)
        if missing := why_not(TRANSFORMERS):
            raise NotHere(f"no model can be served here: {missing}")
        set_up_logging()
        listening = listen(options)
    except SynthqError as error:
        return _say(error)
    return Server(options, listening).run()


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _say(error: Exception) -> int:
    sys.stderr.write(f"Error: {error}\n")
    return error.exit_code if isinstance(error, SynthqError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
