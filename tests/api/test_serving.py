"""``python -m app.main``: one line on stdout, a closed door unless there is a key, and a prompt end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.main import STOP_S

pytestmark = pytest.mark.integration


@contextmanager
def start(home: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """The API's process, on a port of its choice."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SYNTHQ_")}
    env |= {"SYNTHQ_HOME": str(home), "SYNTHQ_API_PORT": "0", "SYNTHQ_REDIS_URL": "redis://127.0.0.1:9/0"}
    env |= {f"SYNTHQ_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "app.main"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_it_makes_its_store_tells_its_address_and_ends_when_told(tmp_path: Path):
    with start(tmp_path / "new") as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with httpx.Client(base_url=address, timeout=20) as client:
            assert client.get("/health").json()["healthy"] is True
            job = client.post("/v1/jobs", json={"kind": "eval", "spec": {"eval": {"seeds": "0"}}}).json()
            with client.stream("GET", job["links"]["events"], headers={"Accept": "text/event-stream"}) as stream:
                lines = stream.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                told_at = time.monotonic()
                list(lines)  # the stream ends; it does not break off
        rest = process.stdout.read()
        process.wait(20)
        assert time.monotonic() - told_at < STOP_S
        assert rest == ""
        assert process.returncode in (0, -signal.SIGTERM)


def test_an_address_that_others_can_reach_needs_a_key(tmp_path: Path):
    with start(tmp_path, api_host="0.0.0.0") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "'0.0.0.0' is open to others and no API key is configured" in err


def test_with_a_key_it_may_be_open(tmp_path: Path):
    with start(tmp_path, api_host="0.0.0.0", api_keys="a-long-secret") as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip().rpartition(":")[2]
        url = f"http://127.0.0.1:{port}/v1/jobs"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"Authorization": "Bearer a-long-secret"}).status_code == 200
        process.terminate()
        _, err = process.communicate(timeout=20)
    assert "a-long-secret" not in err
