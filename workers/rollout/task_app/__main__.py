"""``python -m workers.rollout.task_app``: serve the task app until SIGINT or SIGTERM."""

from __future__ import annotations

import socket
import sys

import uvicorn

from app.auth import is_loopback
from app.errors import BadFlag, Conflict, SynthqError
from app.logs import set_up_logging
from app.settings import Settings, get_settings
from workers.rollout.task_app.app import create_app

STOP_S = 5
"""How long rollouts that are under way may keep a stopping task app."""


def listen(settings: Settings) -> socket.socket:
    """The socket that it serves. Raises BadFlag for an address that is none or is open without a key, Conflict for a taken one."""
    host, port = settings.task_app_host, settings.task_app_port
    if not is_loopback(host) and not settings.accepted_by_task_app:
        raise BadFlag(
            f"SYNTHQ_TASK_APP_HOST={host} is open to others and the task app has no key; "
            "set SYNTHQ_TASK_APP_KEYS or ENVIRONMENT_API_KEY"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except socket.gaierror as error:
        raise BadFlag(f"SYNTHQ_TASK_APP_HOST={host} is no address ({error.strerror}); 127.0.0.1 is this machine alone") from None
    except OSError as error:
        raise Conflict(
            f"the task app cannot listen on port {port} of {host} ({error.strerror}); SYNTHQ_TASK_APP_PORT gives it another one"
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
    config = uvicorn.Config(create_app(), access_log=False, log_config=None, timeout_graceful_shutdown=STOP_S)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
