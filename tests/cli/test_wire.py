"""Servers that are not there, are not ours, or stop in the middle: a sentence and an exit code, never a traceback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from console import Synthq, answering, program, unused_port
from test_jobs_cli import SMALL

from app import errors
from cli.client import BY_CODE, BY_EXIT_CODE, BY_STATUS, server_url

VERBS = [
    "status",
    "list",
    "wait job_1",
    "events",
    "cancel job_1",
    "retry job_1",
    "rm job_1 -y",
    "artifacts",
    "traces list",
    "traces show ep_1",
    "key list",
    "key create laptop",
    "submit eval --seeds 1",
]


@pytest.fixture(autouse=True)
def clean(outside: Path) -> None:
    """No SYNTHQ_* of the outside."""


@pytest.mark.parametrize("line", VERBS)
def test_no_server_exits_6_and_says_how_to_start_one(synthq: Synthq, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    url = f"http://127.0.0.1:{unused_port()}"
    monkeypatch.setenv("SYNTHQ_URL", url)
    ran = synthq(*line.split())
    assert ran == type(ran)(
        code=6, out="", err=f"Error: no synthq server answers at {url}; start one here with `synthq up`, or set SYNTHQ_URL\n"
    )


NOT_OURS = {
    "a page": (200, b"<html>Welcome</html>", "text/html", 6, "which is no answer of synthq"),
    "half of json": (200, b'{"id": "job_1"', "application/json", 6, "is that the address of a synthq server"),
    "not utf-8": (200, b"\xff\xfe{}", "application/json", 6, "is that the address"),
    "another json": (200, b"[[1]]", "application/json", 6, "something else than"),
    "null": (200, b"null", "application/json", 6, "something else than"),
    "a page of a proxy": (502, b"<html>Bad gateway</html>", "text/html", 6, "answered 502"),
    "an empty 500": (500, b"", "text/plain", 6, "answered 500"),
    "another 404": (404, b'{"message": "no route"}', "application/json", 6, "answered 404"),
    "a redirect": (302, b"", "text/html", 6, "sends on to"),
    "a problem of ours": (
        503,
        b'{"detail": "the store is away", "code": "x"}',
        "application/problem+json",
        6,
        "the store is away",
    ),
    "an error of ours": (500, b'{"detail": "met an error", "code": "x"}', "application/problem+json", 1, "met an error"),
}


@pytest.mark.parametrize(("status", "body", "kind", "code", "said"), NOT_OURS.values(), ids=NOT_OURS.keys())
@pytest.mark.parametrize("line", ["status", "list", "submit eval --seeds 1"])
def test_answers_that_are_not_ours_become_sentences(
    synthq: Synthq, monkeypatch: pytest.MonkeyPatch, line: str, status: int, body: bytes, kind: str, code: int, said: str
) -> None:
    with answering(status, body, kind) as url:
        monkeypatch.setenv("SYNTHQ_URL", url)
        ran = synthq(*line.split())
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert "fault of its own" not in ran.err


@pytest.mark.parametrize("line", ["status", "list", "submit eval --seeds 1", "cancel job_1"])
def test_half_an_answer_is_told_as_that(synthq: Synthq, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    with answering(200, b'{"id": "job_1"}', "application/json", promised=1000) as url:
        monkeypatch.setenv("SYNTHQ_URL", url)
        ran = synthq(*line.split())
    assert (ran.code, ran.out) == (6, "")
    assert "broke off" in ran.err


def test_a_server_that_says_nothing_is_given_up(synthq: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    monkeypatch.setattr("cli.client.TIMEOUT", httpx.Timeout(0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("SYNTHQ_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        ran = synthq("status")
    assert ran.code == 6
    assert "did not answer within" in ran.err


@contextmanager
def dropping_first(target: str) -> Iterator[tuple[str, list[bytes]]]:
    """A way to a server that passes the first request on, and then closes without giving the answer back."""
    host, port = target.removeprefix("http://").split(":")
    seen: list[bytes] = []
    done = threading.Event()

    def serve(door: socket.socket) -> None:
        while not done.is_set():
            try:
                inner, _ = door.accept()
            except OSError:
                return
            with inner, socket.create_connection((host, int(port))) as outer:
                seen.append(_whole(inner))
                outer.sendall(seen[-1])
                answer = _whole(outer)
                if len(seen) > 1:
                    inner.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=serve, args=(door,))
        thread.start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}", seen
        done.set()
        door.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _whole(sender: socket.socket) -> bytes:
    """A whole message of HTTP with a Content-Length, or without a body."""
    text = b""
    while b"\r\n\r\n" not in text:
        text += sender.recv(1 << 16)
    head, _, body = text.partition(b"\r\n\r\n")
    lines = head.lower().splitlines()
    length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), 0)
    while len(body) < length:
        body += sender.recv(1 << 16)
    return head + b"\r\n\r\n" + body


def test_a_submit_whose_answer_was_lost_makes_one_job(served: Synthq, api_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with dropping_first(api_url) as (url, seen):
        monkeypatch.setenv("SYNTHQ_URL", url)
        ran = served("submit", "eval", *SMALL, "--id-only")
    assert ran.code == 0, ran.err
    assert len(seen) == 2
    monkeypatch.setenv("SYNTHQ_URL", api_url)
    assert served("list", "--id-only").out == ran.out


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8484", "no address of a server"),
        ("ftp://localhost", "no address of a server"),
        ("http://", "no address of a server"),
        ("http://host:99999999", "no address of a server"),
        ("http://[::1", "no address of a server"),
        ("http://host?x=1", "no address of a server"),
        ("http://user:secret@host", "a key goes in SYNTHQ_API_KEY"),
    ],
)
def test_an_address_that_is_none_exits_2(synthq: Synthq, monkeypatch: pytest.MonkeyPatch, url: str, said: str) -> None:
    monkeypatch.setenv("SYNTHQ_URL", url)
    ran = synthq("list")
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "secret" not in ran.err


@pytest.mark.parametrize("port", ["x", "0", "70000", "-1", "8 4", "٣"])
def test_a_port_that_is_none_exits_2(synthq: Synthq, monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("SYNTHQ_API_PORT", port)
    ran = synthq("list")
    assert ran.code == 2
    assert f"SYNTHQ_API_PORT={port}" in ran.err


def test_the_address_comes_from_url_then_port_then_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_url() == "http://127.0.0.1:8484"
    monkeypatch.setenv("SYNTHQ_API_PORT", "9000")
    assert server_url() == "http://127.0.0.1:9000"
    monkeypatch.setenv("SYNTHQ_URL", "https://synthq.example/base/")
    assert server_url() == "https://synthq.example/base"


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(served: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert served("list").code == 0


def test_every_error_of_the_server_keeps_its_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SynthqError)]
    for kind in kinds:
        name = kind.__name__
        code = "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))
        told = BY_CODE.get(code, BY_STATUS.get(kind.status, 6 if kind.status > 500 else 1))
        wanted = 6 if kind.retryable else kind.exit_code
        if kind.exit_code in BY_EXIT_CODE:
            assert told == wanted, f"{name} ({kind.status}) would exit {told}, not {wanted}"


def test_a_traceback_comes_only_when_it_is_asked_for() -> None:
    address = f"http://127.0.0.1:{unused_port()}"
    assert "Traceback" not in program("list", SYNTHQ_URL=address).err
    ran = program("list", SYNTHQ_URL=address, SYNTHQ_DEBUG="1")
    assert "Traceback" in ran.err
    assert ran.code == 6


def test_a_console_that_lacks_a_letter_still_gets_the_job_id(served: Synthq) -> None:
    ran = program("submit", "eval", *SMALL, PYTHONIOENCODING="latin-1")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "? Job created"
    assert ran.job_id.startswith("job_")
