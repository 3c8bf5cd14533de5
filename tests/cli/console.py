"""What the tests of the command line share: running it here or as a program, and the acts of a worker and a scheduler."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from core.kit import WORKER

from app import claims, db, heartbeat, lifecycle
from app.models import Job, Queue
from app.store import jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What became of one command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as JSON."""
        return json.loads(self.out)

    @property
    def job_id(self) -> str:
        """The id that `submit` printed."""
        return next(line for line in self.out.splitlines() if line.startswith("job_id: ")).removeprefix("job_id: ")


Synthq = Callable[..., Ran]


def program(*args: str, timeout: float = 60.0, **env: str) -> Ran:
    """Run the command line as a program of its own."""
    line = [sys.executable, "-m", "cli.main", *args]
    ran = subprocess.run(line, capture_output=True, text=True, timeout=timeout, env={**os.environ, **env}, check=False)
    return Ran(code=ran.returncode, out=ran.stdout, err=ran.stderr)


def unused_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def row(job_id: str) -> Job:
    """A job's row as it is now."""
    with db.reading() as session:
        return jobs.find(session, job_id)


def break_steps(reason: str) -> None:
    """Take every step that waits and fail it for good, until the job has ended."""
    for queue in (Queue.ROLLOUT, Queue.DATA):
        while (taken := claims.claim(queue, owner=WORKER)) is not None:
            with db.writing() as session:
                lifecycle.fail_step(session, taken.step_id, taken.fence, reason, retryable=False)


def start_scheduler() -> None:
    """Write that a scheduler leads."""
    assert heartbeat.lead("scheduler", "scheduler-of-the-test", 60.0)


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while the block runs; what it raises fails the test."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


@contextmanager
def answering(status: int, body: bytes, content_type: str = "text/html", *, promised: int | None = None) -> Iterator[str]:
    """A server that gives every request the same answer; ``promised`` more bytes than come make it half an answer."""

    class Answer(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body) if promised is None else promised))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
