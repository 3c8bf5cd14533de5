"""An engine for tests of those who ask one: it speaks the wire of synthq's own (or of vLLM) on a free loopback port, and answers
by rule: what a turn is answered depends on its seed alone, so it is the same whoever answers it and with whom.

    with Engine(base="/models/tiny") as engine:
        engine.report().then(refuses(503))            # an endpoint of the store; what the next request is answered
        ...
    engine.asked[0].body                               # what came, in order, and how many came as one
    engine.kill()                                      # every connection breaks, and none can be made
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from core.kit import submit as submit_job

from app import endpoints, specs

BASE = "/models/tiny"
LABEL = f"model:{BASE}"
SHA256 = "b" * 64
MOVES = ("move_left", "move_right", "move_up", "move_down", "do", "sleep")
END = "<|im_end|>"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request that came."""

    body: dict[str, Any]
    together: int
    """Requests that came in one with it, itself included; 0 when it came by itself."""
    key: str | None


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a request is answered: a status and a body, perhaps later, perhaps not at all."""

    status: int = 200
    body: Any = None
    after_s: float = 0.0
    lost: bool = False
    """The connection breaks in place of an answer."""


def refuses(status: int, message: str = "not now", **error: Any) -> Said:
    """An error in OpenAI's form."""
    return Said(status=status, body={"error": {"message": message, "type": "error", **error}})


def answer(
    body: dict[str, Any], text: str, *, sha256: str = SHA256, model: str | None = None, tokens: list[str] | None = None
) -> dict[str, Any]:
    """A whole answer with this text; its tokens are those given, or its letters."""
    pieces = tokens if tokens is not None else [*text, END]
    ids = [ord(piece) if len(piece) == 1 else 900 + len(piece) for piece in pieces]
    content = [{"token": piece, "logprob": -((body["seed"] + i) % 7) / 8, "bytes": None} for i, piece in enumerate(pieces)]
    prompt = [len(json.dumps(body["messages"])) % 1000, body["seed"] % 1000]
    return {
        "model": body["model"] if model is None else model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": {"content": content},
                     "finish_reason": "stop", "token_ids": ids}],
        "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(ids)},
        "prompt_token_ids": prompt,
        "synthq": {"version": sha256, "timings_ms": {"queue": 0.25, "processor": 0.5, "prefill": 1.0, "decode": 2.0},
                   "prefix_tokens": 1, "image_tokens": 9},
    }  # fmt: skip


def by_seed(body: dict[str, Any]) -> str:
    """What a turn is answered: one or two moves that its seed chooses, in the format that was asked for, or nonsense."""
    seed = body["seed"]
    said = [MOVES[seed % len(MOVES)], *([MOVES[seed // 7 % len(MOVES)]] if seed % 3 == 0 else [])]
    if seed % 11 == 0:
        return "what now?"
    if "tools" not in body:
        return " ".join(said)
    return f'<tool_call>\n{{"name": "interact_many", "arguments": {json.dumps({"actions": said})}}}\n</tool_call>{END}'


def submit(
    label: str = LABEL, *, adapter: str = "", sha256: str = SHA256, line: str = "", engine: str = "auto", **table: Any
) -> str:
    """Submit an eval of a model, by default of seed 1 for four turns; what its label means is written as the API would."""
    given = {"seeds": "1", "policies": [label], "max_turns": 4} | table
    spec = specs.resolved(specs.build({"kind": "eval", "eval": given}))
    use = {"label": label, "base": BASE, "adapter": adapter, "sha256": sha256, "line": line, "engine": engine}
    return submit_job("eval", spec, uses=[use]).id


class Engine:
    """A server with one base and some adapters."""

    def __init__(
        self,
        *,
        base: str = BASE,
        adapters: dict[str, str] | None = None,
        kind: str = "transformers",
        sha256: str = SHA256,
        key: str = "",
    ) -> None:
        self.base, self.adapters, self.kind, self.sha256, self.key = base, adapters or {}, kind, sha256, key
        self.asked: list[Asked] = []
        self.rule: Callable[[dict[str, Any]], Said] = lambda body: Said(
            body=answer(body, by_seed(body), sha256=self._version(body))
        )
        self._next: deque[Said] = deque()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._open: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.id = ""

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Break every connection and take no more, as a process does that is killed."""
        if self._over.is_set():
            return
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        for each in list(self._open):
            each.close()
        self._thread.join()

    def then(self, *said: Said) -> None:
        """Answer the next requests with these."""
        self._next.extend(said)

    def report(self, state: str = "ready", **more: Any) -> Engine:
        """Write in the store that this engine is an endpoint, as its worker would."""
        if not self.id:
            self.id = endpoints.register(f"worker-at-{self.url}", engines=[self.kind])
        adapters = {name: {"path": f"/adapters/{name}", "sha256": sha256} for name, sha256 in self.adapters.items()}
        values = {"url": self.url, "engine": self.kind, "base": self.base, "adapters": adapters, "capacity": 16, **more}
        assert endpoints.report(self.id, state=state, **values)
        return self

    def _version(self, body: dict[str, Any]) -> str:
        return self.adapters.get(body["model"], self.sha256)

    def say(self, body: dict[str, Any], together: int, key: str | None) -> Said:
        """What one request is answered."""
        with self._lock:
            self.asked.append(Asked(body=body, together=together, key=key))
            said = self._next.popleft() if self._next else None
        if body["model"] not in (self.base, *self.adapters):
            return refuses(404, f"no model {body['model']!r} is served here")
        said = said or self.rule(body)
        self._over.wait(said.after_s)
        return said

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                engine._open.add(self.connection)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                key = self.headers.get("authorization")
                if self.path == "/v1/batch" and engine.kind == "transformers":
                    self._many(body["requests"], key)
                elif self.path == "/v1/chat/completions":
                    said = engine.say(body, 0, key)
                    if said.lost or engine._over.is_set():
                        self._break()
                        return
                    self._send(said.status, json.dumps(said.body).encode())
                else:
                    self._send(404, b'{"error": {"message": "no such path"}}')

            def _many(self, bodies: list[dict[str, Any]], key: str | None) -> None:
                self.send_response(200)
                self.send_header("content-type", "application/x-ndjson")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for index in reversed(range(len(bodies))):  # in whatever order they are done
                    said = engine.say(bodies[index], len(bodies), key)
                    if said.lost or engine._over.is_set():
                        self._break()
                        return
                    line = (
                        json.dumps({"index": index, "status": said.status, "body": said.body}, ensure_ascii=False).encode()
                        + b"\n"
                    )
                    for piece in (line[:7], line[7:]):  # a line may come in pieces
                        self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                        self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

            def _break(self) -> None:
                self.close_connection = True
                self.connection.close()

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def handle(self) -> None:
                try:
                    super().handle()
                except (OSError, ValueError):
                    self.close_connection = True  # one of the two went away
                finally:
                    engine._open.discard(self.connection)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler
