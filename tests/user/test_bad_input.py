"""What a hurried or hostile user gives, and the sentence that comes back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app import migrate
from app.errors import BadFlag, JobNotFound
from app.main import create_app
from app.settings import get_settings
from cli.client import server_url
from cli.main import main

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def api(own_home: Path) -> TestClient:
    """The API on an empty store, called from this machine."""
    migrate.upgrade()
    return TestClient(create_app(), base_url="http://127.0.0.1", client=("127.0.0.1", 50000))


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command line says to words that cannot be right."""
    assert main(list(words)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


@pytest.mark.parametrize("key", ["", "a b", "schlüssel", "x" * 201, "a\nb"])
def test_an_idempotency_key_that_no_header_holds_is_refused_before_anything_is_sent(capsys, key: str) -> None:
    assert "--idempotency-key" in refusal(capsys, "submit", "eval", "--seeds", "0", "--idempotency-key", key)


def test_an_empty_name_of_a_file_is_no_folder(capsys) -> None:
    assert "is a variable of the shell not set?" in refusal(capsys, "submit", "eval", "")


def test_what_drives_a_terminal_is_escaped_in_a_sentence(capsys) -> None:
    said = refusal(capsys, "submit", "eval", "--seeds", "0", "--name", "a\x1b[31m")
    assert "\x1b" not in said
    assert r"a\u001b[31m" in said


def test_a_table_that_is_there_twice_is_named_without_python(capsys, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('[eval]\nseeds = "0"\n[eval]\n')
    said = refusal(capsys, "submit", "eval", str(tmp_path / "x.toml"))
    assert "the table [eval] is there twice" in said


def test_a_closed_stdout_is_no_fault() -> None:
    line = f"exec {sys.executable} -m cli.main config schema eval >&-"
    ran = subprocess.run(["sh", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_no_last_job_is_told_as_that() -> None:
    assert str(JobNotFound("@last")).startswith("there is no job yet")
    assert len(str(JobNotFound("x" * 5000))) < 200


def test_an_address_that_ends_in_v1_is_that_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHQ_URL", "http://127.0.0.1:8484/v1/")
    assert server_url() == "http://127.0.0.1:8484"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LEASE_S", "soon", "SYNTHQ_LEASE_S=soon must be a valid number"),
        ("API_PORT", "99999", "SYNTHQ_API_PORT=99999 must be less than or equal to 65535"),
        ("LOG_LEVEL", "loud", "SYNTHQ_LOG_LEVEL=loud is no level; it takes one of DEBUG"),
        ("DATABASE_URL", "mysql://u:secret@h/x", "SYNTHQ_DATABASE_URL is no database that synthq can use"),
        ("REDIS_URL", "secret@localhost", "SYNTHQ_REDIS_URL is no broker that synthq can use"),
    ],
)
def test_a_variable_that_cannot_be_right_is_named_without_its_secret(monkeypatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(f"SYNTHQ_{name}", value)
    get_settings.cache_clear()
    with pytest.raises(BadFlag) as raised:
        get_settings()
    assert str(raised.value).startswith(said)
    assert "secret" not in str(raised.value)


def test_an_empty_home_is_not_the_present_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHQ_HOME", "")
    get_settings.cache_clear()
    assert get_settings().home == Path.home() / ".synthq"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HOME", "/proc/nowhere", "SYNTHQ_HOME=/proc/nowhere cannot be made"),
        ("LEASE_S", "soon", "SYNTHQ_LEASE_S=soon must be"),
        ("FLOWER_PORT", "x", "SYNTHQ_FLOWER_PORT=x must be"),
        ("API_HOST", "256.0.0.1", "SYNTHQ_API_HOST=256.0.0.1 is no address of this machine"),
    ],
)
def test_up_says_at_once_what_it_cannot_use(own_home: Path, name: str, value: str, said: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "app.supervisor", "up"],
        cwd=REPOSITORY,
        env={**os.environ, "SYNTHQ_HOME": str(own_home), f"SYNTHQ_{name}": value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"Error: {said}")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        ("", "application/json", "the body is missing; it is to be a JSON object"),
        ("{", "application/json", "the body is no JSON: expecting property name enclosed in double quotes at character 2"),
        ("[]", "application/json", "the body must be a JSON object, not []"),
        ("kind=eval", "text/plain", "the body comes as text/plain; it is to be a JSON object"),
        ('{"kind":"eval","spec":{},"name":"a b"}', "application/json", "name: must be 1 to 80 letters, digits, dots"),
        ('{"kind":"eval","spec":{},"labels":{"a":"\\u001b"}}', "application/json", "labels.a: must be text without control"),
        ('{"kind":"eval","spec":{},"priority":"1"}', "application/json", "priority: must be a whole number, not '1'"),
        ('{"kind":"eval","spec":' + "[" * 9999, "application/json", "the body is nested too deep"),
    ],
)
def test_the_api_says_what_a_body_is_to_be(api: TestClient, body: str, content_type: str, said: str) -> None:
    answer = api.post("/v1/jobs", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(said)
    assert "pattern" not in answer.text
    assert api.get("/v1/jobs").json()["data"] == []


@pytest.mark.slow
@pytest.mark.integration
def test_the_table_of_bad_input_holds(own_home: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.bad_input"], cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("\n| ") > 80
