"""An OpenAI-compatible server for tests: real HTTP on a free loopback port, which checks every request and answers by a script.

    with StandIn(model="teacher", picture_px=64) as server:
        server.then(status(429, headers={"retry-after-ms": "5"}), calls("do"))
        ...                        # ask server.url ("http://127.0.0.1:PORT/v1") with the key server.key
    server.asked[0].picture        # what came: body, headers, picture as uint8 [height, width, 3]

Answers are given in the order of ``then``; when it is used up, ``always`` answers, which by default says one action in the format
that was asked for. A request that is not as it should be is answered 400 and noted in ``faults``; then leaving the block fails.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from workers.rollout import prompts
from workers.rollout.envs.crafter import Crafter
from workers.transport.pixels import decode_png

KEY = "tk-5d0c1b7e9f2a4463b8aa77e1c0ffee42"
URL = "data:image/png;base64,"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request that came."""

    body: dict[str, Any]
    headers: dict[str, str]
    picture: np.ndarray | None
    """The pixels of its one picture."""
    at: float
    """When, on the monotonic clock."""

    @property
    def user(self) -> dict[str, Any]:
        """The user's message."""
        (found,) = (message for message in self.body["messages"] if message["role"] == "user")
        return found

    @property
    def text(self) -> str:
        """All text of the user's message."""
        content = self.user["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server sends: JSON, or bytes as they are, perhaps later, perhaps not at all."""

    body: Any = None
    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    """Wait that ends early when the server does."""
    drop: bool = False
    """Close the connection in place of an answer."""


def message(said: dict[str, Any], *, finish: str | None = "stop", usage: Any = (800, 20), after_s: float = 0.0) -> Answer:
    """A chat completion with this message; ``usage`` is (prompt, completion) tokens, or anything else as it is, or None."""
    told = {"prompt_tokens": usage[0], "completion_tokens": usage[1]} if isinstance(usage, tuple) else usage
    choice = {"index": 0, "message": {"role": "assistant", **said}, "finish_reason": finish}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "model": "teacher-2026-11-01", "choices": [choice]}
    body |= {"usage": told} if told is not None else {}
    return Answer(body=body, headers={"x-request-id": "req-7"}, after_s=after_s)


def calls(*actions: str, arguments: str | None = None, name: str = "interact_many", times: int = 1, **more: Any) -> Answer:
    """A tool call with these actions, or with any ``arguments`` text."""
    function = {"name": name, "arguments": json.dumps({"actions": actions}) if arguments is None else arguments}
    listed = [{"id": f"call_{i}", "type": "function", "function": function} for i in range(times)]
    return message({"content": None, "tool_calls": listed}, **{"finish": "tool_calls", **more})


def text(said: str, **more: Any) -> Answer:
    """A reply in words."""
    return message({"content": said}, **more)


def status(number: int, said: str = "not now", /, *, headers: dict[str, str] | None = None, **error: Any) -> Answer:
    """An HTTP error in OpenAI's form; ``error`` goes beside the message: ``param``, ``code``, ``type``."""
    return Answer(code=number, body={"error": {"message": said, **error}}, headers=headers or {})


def unsupported(param: str, said: str | None = None) -> Answer:
    """The 400 of a model that does not take a parameter."""
    return status(400, said or f"Unsupported parameter: '{param}' is not supported", param=param, code="unsupported_parameter")


class StandIn:
    """The server, with what it expects of each request."""

    def __init__(
        self,
        *,
        model: str = "teacher",
        key: str | None = KEY,
        use_vision: bool = True,
        image_only: bool = False,
        picture_px: int = 64,
        tools: bool = True,
        max_actions: int = 8,
        certificate: Path | None = None,
    ) -> None:
        self.model, self.key = model, key
        self.use_vision, self.image_only, self.picture_px = use_vision, image_only, picture_px
        self.tools = prompts.tools(Crafter.actions, max_actions) if tools else None
        self.asked: list[Asked] = []
        self.faults: list[str] = []
        self.always: Answer | Callable[[Asked], Answer] = calls("move_left") if tools else text("move_left")
        self._next: deque[Answer] = deque()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_port}/v1"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    def then(self, *answers: Answer) -> StandIn:
        """Answer the next requests with these, in this order."""
        self._next.extend(answers)
        return self

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if kind is None:
            assert not self.faults, self.faults

    def _answer(self, path: str, headers: dict[str, str], raw: bytes) -> Answer:
        try:
            asked = self._checked(path, headers, raw)
        except AssertionError as fault:
            self.faults.append(str(fault))
            return status(400, f"the stand-in: {fault}")
        with self._lock:
            self.asked.append(asked)
            if self._next:
                return self._next.popleft()
        return self.always(asked) if callable(self.always) else self.always

    def _checked(self, path: str, headers: dict[str, str], raw: bytes) -> Asked:
        assert path == "/v1/chat/completions", f"the path is {path}"
        wanted = f"Bearer {self.key}" if self.key else None
        assert headers.get("authorization") == wanted, "the key is not the one that was given out"
        body = json.loads(raw)
        assert body["model"] == self.model, f"the model is {body['model']}"
        assert body.get("tools") == self.tools, "the tools are not those of prompts.tools"
        assert ("tool_choice" in body) <= (self.tools is not None), "tool_choice comes without tools"
        users = [each for each in body["messages"] if each["role"] == "user"]
        assert len(users) == 1, f"{len(users)} messages of the user"
        return Asked(body=body, headers=headers, picture=self._picture(users[0]["content"]), at=time.monotonic())

    def _picture(self, content: Any) -> np.ndarray | None:
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        pictures = [part["image_url"] for part in parts if part["type"] == "image_url"]
        assert len(pictures) == int(self.use_vision), f"{len(pictures)} pictures with use_vision = {self.use_vision}"
        texts = [part for part in parts if part["type"] == "text"]
        assert bool(texts) != self.image_only, f"{len(texts)} texts with image_only_mode = {self.image_only}"
        if not pictures:
            return None
        assert set(pictures[0]) == {"url", "detail"}, f"image_url has {sorted(pictures[0])}"
        assert pictures[0]["url"].startswith(URL), f"the picture's URL begins with {pictures[0]['url'][:30]}"
        pixels = decode_png(base64.b64decode(pictures[0]["url"].removeprefix(URL), validate=True))
        assert pixels.shape == (self.picture_px, self.picture_px, 3), f"the picture has the shape {pixels.shape}"
        return pixels

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                answer = stand_in._answer(self.path, {name.lower(): value for name, value in self.headers.items()}, raw)
                if stand_in._over.wait(answer.after_s) or answer.drop:
                    self.close_connection = True
                    return
                body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.code)
                for name, value in {"content-type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def handle(self) -> None:
                try:
                    super().handle()
                except (ConnectionError, TimeoutError, ssl.SSLError):
                    self.close_connection = True  # the client went away first

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler
