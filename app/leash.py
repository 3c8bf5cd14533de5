"""Runs a command that ends when the process that asked for it ends, even by SIGKILL. Imports the standard library only.

    python -I -S app/leash.py PARENT_PID SIGNAL_NUMBER COMMAND...

On Linux the kernel keeps the promise: this process asks for a signal at its parent's death and becomes the command. Elsewhere (or
with SYNTHQ_LEASH=watch, for tests) it stays as a thin parent, looks for its own parent twice a second, and passes signals on. It
does so everywhere if the signal's number is negative: the command's whole process group then ends with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

PR_SET_PDEATHSIG = 1
LOOK_S = 0.5
GRACE_S = 3.0
"""How long a command may take to follow the signal before it is killed; where this process watches."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def leashed(argv: list[str], *, at_death: signal.Signals = signal.SIGKILL, group: bool = False) -> list[str]:
    """The command that runs ``argv`` on a leash held by this process. Start it from the main thread, which must live on.

    ``group``: for a command whose own children would outlive it. Start it as the leader of a session.
    """
    number = -int(at_death) if group else int(at_death)
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), str(number), *argv]


def main(words: list[str]) -> NoReturn:
    """Become the command, or watch over it."""
    parent, at_death, argv = int(words[0]), int(words[1]), words[2:]
    if at_death > 0 and sys.platform == "linux" and os.environ.get("SYNTHQ_LEASH") != "watch":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, at_death, 0, 0, 0)
        if os.getppid() != parent:  # it died before the promise was made
            sys.exit(1)
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            sys.exit(f"{argv[0]} cannot be run: {error.strerror}")
    sys.exit(watch(argv, parent, at_death))


def watch(argv: list[str], parent: int, at_death: int) -> int:
    """Run the command as a child until it ends or ``parent`` is no longer this process's parent; its exit status."""
    try:
        child = subprocess.Popen(argv)
    except OSError as error:
        sys.exit(f"{argv[0]} cannot be run: {error.strerror}")

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    while True:
        try:
            code = child.wait(timeout=LOOK_S)
            return code if code >= 0 else 128 - code
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                code = end(child, abs(at_death))
                if at_death < 0 and os.getpgrp() == os.getpid():
                    os.killpg(0, signal.SIGKILL)  # this process is of the group too
                return code


def end(child: subprocess.Popen[bytes], number: int) -> int:
    """Send the signal, and SIGKILL to what does not follow it."""
    child.send_signal(number)
    deadline = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if child.poll() is None:
        child.kill()
    return child.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
