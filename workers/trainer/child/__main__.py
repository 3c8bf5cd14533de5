"""The child's process: ``python -m workers.trainer.child``, started by ``workers.trainer.resident`` and by nobody else.

Its standard input is the socket on which its worker speaks; what it prints is its log. Calls come one at a time.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import sqlite3
import threading
import time
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from sqlalchemy import Engine, event

from app import db
from app.errors import SynthqError
from app.logs import set_up_logging
from workers.trainer.child.held import Cancelled, Held, Target
from workers.trainer.child.ranks import Alone, join
from workers.trainer.wire import LAST_WORDS, Wire

log = logging.getLogger("synthq.trainer")

LOOK_S: Final = 0.5
"""How often a process that others started looks whether they live."""
TOGETHER_S: Final = 10.0
"""How long all may take to be done with a call after the first one of them was."""


class Speaker:
    """The first process's end of the wire: calls come in, and so does the wish that one should stop."""

    def __init__(self, stop: threading.Event) -> None:
        self._wire, self._stop = Wire(socket.socket(fileno=os.dup(0))), stop
        self._calls: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._at = self._cancelled = 0
        """Numbers of the call under way, and of the one that was cancelled last."""
        self._alone = False
        threading.Thread(target=self._read, name="synthq-wire", daemon=True).start()

    def next(self) -> dict[str, Any] | None:
        """The next call; None when there will be none."""
        call = self._calls.get()
        with self._lock:
            if call is None or self._alone:
                return None
            self._at = call["number"]
            if self._cancelled != self._at:
                self._stop.clear()
        return call

    def say(self, said: dict[str, Any]) -> None:
        """Send an answer or an event; nobody hears it when the worker is gone."""
        with suppress(OSError):
            self._wire.send(said)

    def _read(self) -> None:
        while True:
            try:
                told = self._wire.receive()
            except EOFError:
                with self._lock:
                    self._alone = True
                    self._stop.set()
                self._calls.put(None)
                return
            if told and "cancel" in told:
                with self._lock:
                    self._cancelled = told["cancel"]
                    if self._cancelled == self._at:
                        self._stop.set()
            else:
                self._calls.put(told)


def run(ranks: Alone, speaker: Speaker | None, stop: threading.Event) -> None:
    """Do calls until the worker has no more."""
    held = Held(ranks, stop)
    while (call := ranks.share(speaker.next() if speaker else None)) is not None:
        answer = _answer(call, speaker, held)
        if ranks.size > 1:
            answer = _agreed(ranks, speaker, answer)
        if speaker is not None:
            speaker.say(answer)
        if answer.get("goes"):
            return


def _answer(call: dict[str, Any], speaker: Speaker | None, held: Held) -> dict[str, Any]:
    """Do one call; what came of it."""

    def tell(said: dict[str, Any]) -> None:
        if speaker is not None:
            speaker.say({"event": said})

    try:
        return {"result": _target(call["call"])(call["args"], tell, held)}
    except Cancelled:
        log.info("%s was asked to stop, and has", call["call"])
        return _failure("it was asked to stop", "Cancelled", retryable=True)
    except SynthqError as error:
        log.error("%s: %s", call["call"], error)
        return _failure(str(error), type(error).__name__, retryable=error.retryable)
    except Exception as error:  # whatever goes wrong with one call is the worker's to judge
        log.exception("%s failed", call["call"])
        traceback.clear_frames(error.__traceback__)  # they hold what is to be given back
        held.drop()
        name = type(error).__name__
        return _failure(f"{name}: {error}", name, retryable=True)
    finally:
        db.dispose()  # a call may be the last for hours


def _agreed(ranks: Alone, speaker: Speaker | None, answer: dict[str, Any]) -> dict[str, Any]:
    """What came of a call in all processes. What went wrong in some of them alone ends all: nobody knows where they stand."""

    def go() -> None:
        if speaker is not None:
            speaker.say({**answer, "goes": True})
        else:
            told = f"process {ranks.rank} of {ranks.size}: {answer['error']}"
            os.write(2, f"{LAST_WORDS}{json.dumps(told)}\n".encode())
        log.error("process %d of %d waited %g s for the others; all end", ranks.rank, ranks.size, TOGETHER_S)
        os._exit(1)

    late = threading.Timer(TOGETHER_S, go)
    late.daemon = True
    if "error" in answer:  # the others may wait for this one in the middle of the call
        late.start()
    outcomes = ranks.meet(None if "result" in answer else answer)
    late.cancel()
    wrong = [(rank, outcome) for rank, outcome in enumerate(outcomes) if outcome is not None]
    if not wrong or (len({outcome["of"] for _, outcome in wrong}) == 1 and len(wrong) == ranks.size):
        return answer
    rank, first = wrong[0]
    return {**first, "error": f"process {rank} of {ranks.size}: {first['error']}", "goes": True}


def _target(path: str) -> Target:
    module, _, name = path.partition(":")
    found: Target = getattr(import_module(module), name)
    return found


def _failure(sentence: str, of: str, *, retryable: bool) -> dict[str, Any]:
    return {"error": sentence, "of": of, "retryable": retryable}


def _end_with(parent: int) -> None:
    """A process in a session of its own is reached by no signal to the group: it looks for whoever started it."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)


def _only_read(connection: Any, record: Any) -> None:
    """What a child would write to the store no fence would hold back."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA query_only = ON").close()
    else:
        connection.read_only = True


def main() -> None:
    """Work until the worker closes its end."""
    threading.Thread(target=_end_with, args=(os.getppid(),), name="synthq-parent", daemon=True).start()
    set_up_logging()
    event.listen(Engine, "connect", _only_read)
    stop = threading.Event()
    speaker = Speaker(stop) if int(os.environ.get("RANK", "0")) == 0 else None
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    ranks = join()
    run(ranks, speaker, stop)
    ranks.leave()
    logging.shutdown()
    os._exit(0)  # what torch would take apart now takes seconds, and all that matters is written


if __name__ == "__main__":
    main()
