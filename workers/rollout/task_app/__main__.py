"""``python -m workers.rollout.task_app``: serve the task app until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.auth import check_task_app_address
from app.errors import BadFlag, Conflict, SynthqError
from app.logs import set_up_logging
from app.settings import Settings, get_settings
from workers.rollout.task_app.app import create_app

STOP_S = 4
"""How long rollouts that are under way may keep a stopping task app; then their callers are told."""


class Server(uvicorn.Server):
    """Tells its pool that it is to stop."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(uvicorn.Config(app, access_log=False, log_config=None, timeout_graceful_shutdown=STOP_S + 1))
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self.started:  # before, there is no pool
            asyncio.get_running_loop().call_soon_threadsafe(self._app.state.pool.stop, STOP_S)


def listen(settings: Settings) -> socket.socket:
    """The socket to serve. Raises BadFlag for an address that is none or is open without a key, Conflict for a taken one."""
    host, port = settings.task_app_host, settings.task_app_port
    check_task_app_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except socket.gaierror as error:
        raise BadFlag(f"SYNTHQ_TASK_APP_HOST={host} is no address ({error.strerror}); 127.0.0.1 is this machine alone") from None
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise Conflict(
            f"port {port} of {host} cannot be had ({why}); SYNTHQ_TASK_APP_PORT gives the task app another one"
        ) from None


def main() -> int:
    """Serve."""
    try:
        settings = get_settings()
        set_up_logging()
        listening = listen(settings)
    except SynthqError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    host, port = listening.getsockname()[:2]
    sys.stdout.write(f"http://{f'[{host}]' if ':' in host else host}:{port}\n")
    sys.stdout.flush()
    Server(create_app()).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
