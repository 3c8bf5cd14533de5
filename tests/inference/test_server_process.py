"""The engine's server as a process that comes and goes: its key, its bounds, callers who leave, and every way to its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from core.kit import until
from server_kit import Serving, asked, endless

from app.errors import Conflict, SynthqError
from app.supervisor.state import identity
from workers.inference.server import options
from workers.inference.server.__main__ import listen

pytestmark = [pytest.mark.integration, pytest.mark.vision]

KEY = "engine-key-11112222"
SMALL = ("--max-num-seqs", "2", "--max-waiting", "2", "--limit-images", "1")


@pytest.fixture(scope="module")
def guarded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A small server with a key."""
    port_file = tmp_path_factory.mktemp("guarded") / "port"
    running = Serving(tiny_model, *SMALL, "--port-file", str(port_file), SYNTHQ_ENGINE_KEY=KEY)
    assert running.ready["listening"] == f"http://127.0.0.1:{port_file.read_text().strip()}"
    assert running.ready["model"] == str(tiny_model)
    yield running
    assert running.end() == (0, "")


def busy(serving: Serving) -> tuple[int, int]:
    """Requests that run and that wait."""
    told = serving.http.get("/load").json()
    return told["running"], told["waiting"]


def idle(serving: Serving) -> bool:
    return busy(serving) == (0, 0)


# -- the key ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"X-API-Key": KEY}])
def test_without_the_key_nothing_is_answered_but_health_and_metrics(guarded: Serving, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=guarded.ready["listening"], trust_env=False, headers=headers) as stranger:
        for method, path in (("GET", "/v1/models"), ("GET", "/load"), ("POST", "/v1/chat/completions"), ("GET", "/none")):
            response = stranger.request(method, path)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["message"].startswith("this engine wants its key")
            assert KEY not in response.text
        assert stranger.get("/health").status_code == 200
        assert stranger.get("/metrics").status_code == 200


def test_with_the_key_it_answers_whatever_it_is_called(guarded: Serving) -> None:
    assert guarded.http.get("/v1/models", headers={"Host": "engine.example"}).status_code == 200


# -- bounds and callers who leave ------------------------------------------------------------------------------------------


def test_more_than_may_wait_is_refused_for_a_while(guarded: Serving) -> None:
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(guarded.batch, endless(500), endless(500))
        until(lambda: busy(guarded) == (2, 0), 10, "two requests run")
        second = callers.submit(guarded.batch, endless(1), endless(1))
        until(lambda: busy(guarded) == (2, 2), 10, "two requests wait")

        said = "2 requests wait already, the most that this engine holds; ask again later"
        refused = guarded.post(asked())
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, said)
        assert refused.headers["retry-after"] == "1"
        (line,) = guarded.batch(asked())
        assert (line["status"], line["body"]["error"]["message"]) == (503, said)
        assert [line["status"] for line in (*first.result(), *second.result())] == [200] * 4
    assert guarded.post(asked()).status_code == 200


def test_a_caller_who_leaves_takes_the_request_along(guarded: Serving) -> None:
    before = guarded.metric("synthq_engine_cancelled_total")
    with pytest.raises(httpx.ReadTimeout):
        guarded.http.post("/v1/chat/completions", json={"model": guarded.model, **endless()}, timeout=0.3)
    until(lambda: guarded.metric("synthq_engine_cancelled_total") == before + 1, 10, "the request is cancelled")
    until(lambda: idle(guarded), 5, "nothing runs any more")


def test_a_caller_who_leaves_a_batch_takes_what_is_not_done_along(guarded: Serving) -> None:
    before = guarded.metric("synthq_engine_cancelled_total")
    with closing(guarded.lines(endless(), asked(max_tokens=1))) as lines:
        assert next(lines)["index"] == 1
    until(lambda: guarded.metric("synthq_engine_cancelled_total") == before + 1, 10, "one request is cancelled")
    until(lambda: idle(guarded), 5, "nothing runs any more")


# -- beginning and end -----------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def test_it_listens_while_it_loads_and_says_so(tiny_model: Path) -> None:
    port = free_port()
    serving = Serving(tiny_model, "--port", str(port), wait=False)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as early:

        def said(path: str) -> httpx.Response | None:
            try:
                return early.get(path)
            except httpx.TransportError:
                return None

        health = until(lambda: said("/health"), 20, "it listens")
        assert (health.status_code, health.json()) == (503, {"status": "loading"})
        refused = early.get("/v1/models")
        assert refused.status_code == 503
        assert (
            refused.json()["error"]["message"] == f"the model '{tiny_model}' is being loaded; GET /health tells when it is there"
        )
        assert refused.headers["retry-after"] == "1"
        assert early.get("/metrics").status_code == 200
    assert serving.end() == (0, "")  # while it loads


def test_it_finishes_what_is_under_way_before_it_ends(guarded: Serving) -> None:
    with ThreadPoolExecutor(1) as caller:
        asking = caller.submit(guarded.post, endless(300))
        until(lambda: busy(guarded)[0] == 1, 10, "a request runs")
        guarded.process.send_signal(signal.SIGTERM)  # the last that is asked of it
        assert asking.result().status_code == 200
    assert guarded.process.wait(10) == 0


def test_it_ends_within_seconds_whatever_is_under_way(tiny_model: Path) -> None:
    serving = Serving(tiny_model)
    with ThreadPoolExecutor(1) as caller:
        asking = caller.submit(serving.post, endless(4000, logit_bias={"17": 100}))
        until(lambda: busy(serving)[0] == 1, 10, "a request runs")
        serving.process.send_signal(signal.SIGINT)
        assert serving.process.wait(30) == 0  # of which a busy machine may need many for the interpreter to end
        refused = asking.result()
    assert refused.status_code == 503
    assert refused.json()["error"]["message"] == "the engine stops, and this was not done yet; ask again later"
    serving.end()


HOLDER = """
import subprocess, sys
from app.leash import leashed
with subprocess.Popen(leashed([sys.executable, "-m", "workers.inference.server", *sys.argv[1:]])) as server:
    print(server.pid, flush=True)
"""


def test_it_dies_with_the_process_that_holds_it(tiny_model: Path) -> None:
    port = free_port()
    argv = [sys.executable, "-c", HOLDER, "--model", str(tiny_model), "--port", str(port)]

    def listens() -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        until(listens, 30, "the server listens")
        assert identity(pid)
        holder.kill()
        until(lambda: identity(pid) is None, 5, "the server is gone")


def test_what_is_no_model_ends_it_with_a_sentence() -> None:
    argv = [sys.executable, "-m", "workers.inference.server", "--model", "/nowhere/model"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("Error: ")
    assert "/nowhere/model" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--host", "0.0.0.0"], 2, "--host 0.0.0.0 is open to others and the engine has no key; set SYNTHQ_ENGINE_KEY"),
        (["--host", "no.such.host.invalid"], 2, "--host no.such.host.invalid is open to others and the engine has no key"),
        (["--port", "70000"], 2, "--port 70000 is no port; it takes a number from 0 to 65535"),
        (["--port", "-1"], 2, "--port -1 is no port"),
        (["--max-num-seqs", "0"], 2, "--max-num-seqs 0: input should be greater than or equal to 1"),
        (["--limit-images", "-1"], 2, "--limit-images -1: must be 0 or more"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_loaded(flags: list[str], code: int, said: str) -> None:
    with pytest.raises(SynthqError) as refused:
        listen(options.parse(["--model", "m", *flags])).close()
    assert said in str(refused.value)
    assert refused.value.exit_code == code


def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(Conflict) as refused:
            listen(options.parse(["--model", "m", "--port", port])).close()
    assert str(refused.value) == f"port {port} of 127.0.0.1 cannot be had (Address already in use); --port 0 takes any free one"
