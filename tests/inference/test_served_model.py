"""What is served is looked after whatever its engine says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from core import model_folders
from supervisor.conftest import until

from workers.inference import served
from workers.inference.base import Base
from workers.inference.engines.admin import Admin
from workers.inference.engines.base import Options
from workers.inference.engines.child import EngineChild, free_port
from workers.inference.engines.probe import Probed
from workers.inference.served import Model, Served

SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(sys.argv[1].encode())
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(409 if "/load" in self.path else 200)
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[2])), Answers).serve_forever()
"""
Serve = Callable[[str], Served]


class Says:
    """An engine that is well and says one thing of how busy it is."""

    name = "says"

    def __init__(self, load: str) -> None:
        self._load = load

    def command(self, base: str, options: Options, *, host: str, port: int) -> list[str]:
        return [sys.executable, "-c", SERVER, self._load, str(port)]

    def environment(self, base: str, options: Options) -> dict[str, str]:
        return {}


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Serves with an engine that says what is given of how busy it is; it is taken for one that answers, and is asked often."""
    monkeypatch.setattr(served, "probe", lambda *_: Probed(first_s=0, again_s=0, image_tokens=0))
    monkeypatch.setattr(served, "ASK_EVERY_S", 0.05)
    made: list[Served] = []

    def serves(load: str) -> Served:
        port = free_port("127.0.0.1")
        child = EngineChild(Says(load), "m", {}, host="127.0.0.1", port=port, log_file=tmp_path / "engine.log")
        model = Model(engine="says", base="m", options={})
        made.append(Served(model, child, Admin(f"http://127.0.0.1:{port}"), Base("m"), wake=lambda: None))
        until(lambda: made[-1].ready, "it is ready", timeout_s=20)
        return made[-1]

    yield serves
    for each in made:
        each.end()
        until(lambda each=each: each.ended, "it has ended", timeout_s=20)  # type: ignore[misc]


@pytest.mark.parametrize("load", ["no JSON", "[]", '{"running": 1}', '{"running": "many", "waiting": 0, "capacity": 1}'])
def test_an_engine_that_says_nothing_sensible_for_long_is_given_up(
    serve: Serve, load: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "SILENT_S", 0.3)
    engine = serve(load)

    def given_up() -> bool:
        engine.look()
        return engine.fault is not None

    until(given_up, "it is given up", timeout_s=20)
    assert engine.fault is not None
    assert "has not answered" in engine.fault.reason


def test_an_adapter_for_which_there_is_no_room_is_not_asked_for_again_before_another_has_gone(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "IN_USE_S", 0.0)
    engine, path = serve('{"running": 0, "waiting": 0, "capacity": 1}'), model_folders.adapter(tmp_path / "two", "/m")
    engine.adapters = {"one": {"path": "/one", "sha256": ""}}

    def asked() -> int:
        return (tmp_path / "engine.log").read_text().count("POST /v1/load_lora_adapter")

    def bring(**adapters: str) -> None:
        engine.bring(adapters)
        until(engine._work.done, "it has done what it could", timeout_s=20)

    for _ in range(5):
        bring(one="/one", two=str(path))
    until(asked, "it was asked for", timeout_s=20)
    assert asked() == 1
    for _ in range(3):
        bring(two=str(path))  # the first of them takes the other away
    until(lambda: asked() > 1, "it is asked for again", timeout_s=20)
    assert (asked(), engine.adapters, engine.faults) == (2, {}, [])


def test_an_engine_that_tells_how_busy_it_is_is_kept(serve: Serve) -> None:
    engine = serve('{"running": 2, "waiting": 3, "capacity": 7}')

    def told() -> bool:
        engine.look()
        return engine.in_flight == 5

    until(told, "it is asked", timeout_s=20)
    assert (engine.capacity, engine.fault) == (7, None)
