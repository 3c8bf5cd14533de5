"""The child's process, or all of them where several train together, and its wire."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from contextlib import suppress
from typing import Final

from app.errors import ChildDied
from app.watched import Watched, log_of, shortened
from workers.model.threads import sharing
from workers.trainer.wire import LAST_WORDS, Wire

log = logging.getLogger("synthq.trainer")

MODULE: Final = "workers.trainer.child"
NOISE: Final = re.compile(r"^\s*$|torch/distributed/|^[=-]{10,}|^\s*(time|host|rank|exitcode|error_file|traceback)\s*:")
"""What torchrun adds when a process of its ends: where, but not why."""


def command(devices: int) -> list[str]:
    """The command line of a child with so many processes."""
    if devices == 1:
        return [sys.executable, "-m", MODULE]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return [*launcher, "--nproc-per-node", str(devices), "--module", MODULE]


class Process(Watched):
    """A child that runs. Its standard input is the socket on which it speaks; it ends when that is closed."""

    def __init__(self, devices: int) -> None:
        """Starts it; what it prints goes beside the logs of ``synthq up``. Raises ChildDied."""
        self.devices = devices
        env = sharing() | {"TOKENIZERS_PARALLELISM": "false"}
        if devices > 1 and "OMP_NUM_THREADS" not in os.environ:
            env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // devices))
        ours, theirs = socket.socketpair()
        self.wire = Wire(ours)
        name, path = "the trainer's child", log_of("child")
        with theirs:
            try:
                super().__init__(name, command(devices), env=env, log_file=path, log=log, stdin=theirs.fileno())
            except OSError as error:
                self.wire.close()
                raise ChildDied(f"{name} cannot be started: {error.strerror}") from None
        log.info("%s starts, pid %d, %d processes; its log: %s", name, self.pid, devices, self.log_file)

    def why(self) -> str:
        """How it ended, and its last words: those of the process of several that ended the others, where one did."""
        lines = [line for _, line in list(self.lines)]
        why = next((line.removeprefix(LAST_WORDS) for line in lines if line.startswith(LAST_WORDS)), None)
        if why is not None:
            with suppress(ValueError):  # another process wrote in the middle of it
                return self.last_words([], str(json.loads(why)))
        return self.last_words([shortened(line) for line in lines if not NOISE.search(line)])

    def ask_to_end(self) -> None:
        """As ``Watched``: nobody will call any more."""
        self.wire.close()

    def stop(self, grace_s: float) -> bool:
        """As ``Watched``, also after its end."""
        willing = super().stop(grace_s)
        self.wire.close()
        return willing
