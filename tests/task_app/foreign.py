"""A task app that is not synthq's: it knows the contract alone, and really plays. For tests of who asks one."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from workers.rollout import envs
from workers.transport.pixels import encode_png

Answer = tuple[int, Any]
PLAN = ("move_left", "do", "move_right", "sleep")


@dataclass
class Foreign:
    """What the app was asked, and what it will say instead of what is right."""

    url: str = ""
    key: str | None = None
    health: list[int] = field(default_factory=list)
    """Statuses of /health, one by one; then 200."""
    instead: list[Callable[[dict[str, Any]], Answer]] = field(default_factory=list)
    """Answers to /rollout, one by one; then the right one."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    looks: int = 0


def rollout(body: dict[str, Any], *, with_pictures: bool = True) -> Answer:
    """Play as many turns as there are agent ops, two actions each; the last reply calls no tool."""
    env = envs.make("crafter", {"length": 1000})
    env.reset(body["env"]["seed"])
    steps = []
    turns = body["ops"].count("agent")
    for index in range(turns):
        picture = "data:image/png;base64," + base64.b64encode(encode_png(env.frame())).decode()
        user: Any = [{"type": "image_url", "image_url": {"url": picture}}] if with_pictures else env.describe(env.status())
        before = set(env.unlocked())
        said = [PLAN[index % 4], "do"] if index < turns - 1 else []
        for action in said:
            env.step(action)
        steps.append(
            {
                "obs": {"text": "a world"},
                "tool_calls": [{"tool_name": "interact_many", "arguments": {"actions": said}}] if said else [],
                "reward": None if index == 0 else float(len(set(env.unlocked()) - before)),
                "done": index == turns - 1,
                "truncated": True if index == turns - 1 else None,
                "info": {
                    "achievements_added": sorted(set(env.unlocked()) - before),
                    "meta": {
                        "inference_ms": 12.5,
                        "inference_request": {
                            "messages": [{"role": "system", "content": "Play."}, {"role": "user", "content": user}]
                        },
                    },
                },
            }
        )
    trajectory = {"env_id": "e", "policy_id": "p", "length": len(steps), "steps": steps, "final": {"observation": {"text": ""}}}
    return 200, {"run_id": body["run_id"], "aborted": False, "trajectories": [trajectory], "trace": {"session_id": "s"}}


@contextmanager
def foreign_app(key: str | None = None) -> Iterator[Foreign]:
    """Serve on a free port of the loopback."""
    app = Foreign(key=key)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            """Say nothing."""

        def _send(self, status: int, value: Any) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _let_in(self) -> bool:
            if app.key is None or self.headers.get("X-API-Key") == app.key:
                return True
            self._send(401, {"detail": "no"})
            return False

        def do_GET(self) -> None:
            app.looks += 1
            if self._let_in():
                self._send(app.health.pop(0) if app.health else 200, {"healthy": True})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._let_in():
                return
            app.bodies.append(body)
            self._send(*(app.instead.pop(0)(body) if app.instead else rollout(body)))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    app.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield app
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
