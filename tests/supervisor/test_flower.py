from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from supervisor.conftest import until

from app.flower_process import FlowerSettings, arguments, password, password_file
from app.settings import get_settings
from app.supervisor.plan import choose_port


def test_a_password_is_made_once_and_only_its_owner_can_read_it(own_home: Path) -> None:
    settings = get_settings()

    first, second = (password(settings, FlowerSettings()) for _ in range(2))

    assert first == second
    assert len(first) >= 20
    assert stat.S_IMODE(password_file(settings).stat().st_mode) == 0o600


def test_a_password_that_was_given_is_written_nowhere(own_home: Path) -> None:
    assert password(get_settings(), FlowerSettings(password="of the user")) == "of the user"
    assert not password_file(get_settings()).exists()


@pytest.mark.integration
def test_flower_asks_for_the_password_shows_none_and_changes_nothing(
    broker: object, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = choose_port("127.0.0.1", 0)
    monkeypatch.setenv("SYNTHQ_FLOWER_PORT", str(port))
    secret = password(get_settings(), FlowerSettings())
    url = f"http://127.0.0.1:{port}"
    with (
        subprocess.Popen(
            [sys.executable, "-m", "app.flower_process"], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        ) as flower,
        httpx.Client(trust_env=False, timeout=5) as client,
    ):
        try:
            until(lambda: _status(client, f"{url}/healthcheck") == 200, "flower answers")

            assert client.get(f"{url}/api/workers").status_code == 401
            assert client.get(f"{url}/api/workers", auth=("synthq", "wrong")).status_code == 401
            assert client.get(f"{url}/api/workers", auth=("synthq", secret)).status_code == 200
            change = client.post(f"{url}/api/worker/shutdown/any", auth=("synthq", secret))
            assert change.status_code == 403
            command = Path(f"/proc/{flower.pid}/cmdline")
            assert not command.exists() or secret not in command.read_text()
        finally:
            flower.terminate()


def _status(client: httpx.Client, url: str) -> int | None:
    try:
        return client.get(url).status_code
    except httpx.HTTPError:
        return None


def test_flower_binds_loopback_unless_told_otherwise(own_home: Path) -> None:
    words = arguments(get_settings(), FlowerSettings())

    assert "--address=127.0.0.1" in words
    assert "--read-only" in words
