"""Verbs that become other programs, and the doctor: which command lines they make, and what they find."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from console import Synthq, program, start_scheduler, unused_port
from core.kit import submit_noop, write

from app import db, doctor, doctor_parts, heartbeat
from app.errors import BrokerUnavailable
from app.models import Queue
from app.settings import get_settings
from cli.processes import environment

UP = ["--workers", "rollout=4", "--workers", "trainer=1", "--only", "api", "--port", "0", "--no-flower", "--detach"]


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that took the place of this process; none really does."""
    lines: list[list[str]] = []

    def execve(path: str, line: list[str], env: dict[str, str]) -> None:
        assert path == line[0] == sys.executable
        assert env["PYTHONSAFEPATH"] == "1"
        lines.append(line[1:])
        raise SystemExit(0)

    monkeypatch.setattr("os.execve", execve)
    return lines


@pytest.mark.parametrize(
    ("line", "module"),
    [
        (["up"], ["app.supervisor", "up"]),
        (["up", *UP], ["app.supervisor", "up", *UP]),
        (["down"], ["app.supervisor", "down"]),
        (["worker", "rollout"], ["workers.main", "rollout"]),
        (["worker", "rollout", "--concurrency", "2"], ["workers.main", "rollout", "--concurrency", "2"]),
        (["db", "migrate"], ["app.migrate"]),
    ],
)
def test_a_verb_becomes_its_program_with_its_flags(
    synthq: Synthq, became: list[list[str]], line: list[str], module: list[str]
) -> None:
    assert synthq(*line).code == 0
    assert became == [["-m", *module]]


def test_a_folder_with_an_app_of_its_own_is_not_mistaken_for_synthq(home: Path) -> None:
    Path("app").mkdir()
    Path("app/__init__.py").write_text("raise SystemExit('this is the app of the user')")
    ran = program("db", "migrate", PYTHONSAFEPATH="1", PYTHONPATH=environment()["PYTHONPATH"])
    assert ran.code == 0, ran.err
    assert "is at revision" in ran.out


def test_a_worker_of_a_role_that_is_none_says_so(home: Path) -> None:
    ran = program("worker", "rolout", timeout=120)
    assert ran.code != 0
    assert "rollout" in ran.err
    assert "Traceback" not in ran.err


def found(checks: list[dict[str, Any]]) -> dict[str, bool | None]:
    return {each["name"]: each["ok"] for each in checks}


def test_the_doctor_tells_what_is_missing_and_what_to_do(served: Synthq) -> None:
    ran = served("doctor")
    assert ran.code == 1
    assert "✓ python" in ran.out
    assert "✓ database" in ran.out
    assert "✗ scheduler" in ran.out
    assert "start one with `synthq up`" in ran.out
    assert "✓ server" in ran.out
    assert ran.err.startswith("not in order: broker, scheduler, queue rollout")


def test_the_doctor_s_json_has_every_check(served: Synthq) -> None:
    start_scheduler()
    heartbeat.register("w", role="rollout", queues=["rollout", "data"], slots=2)
    ran = served("doctor", "--json")
    told = found(ran.json["checks"])
    assert told == {
        **dict.fromkeys(["python", "packages", "settings", "home", "disk", "database", "clock"], True),
        **dict.fromkeys(["scheduler", "queue rollout", "queue data", "server", "access"], True),
        **dict.fromkeys(["socket", "broker program"], None),
        **dict.fromkeys(["engines", "trainer"], True if find_spec("torch") else None),
        "queue trainer": None,
        "broker": False,
    }
    assert ran.json["ok"] is False
    assert ran.code == 1


def test_the_doctor_works_without_a_server_and_makes_nothing(
    outside: Path, synthq: Synthq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTHQ_URL", f"http://127.0.0.1:{unused_port()}")
    told = found(synthq("doctor", "--json").json["checks"])
    assert (told["home"], told["database"], told["server"]) == (True, None, False)
    assert not outside.exists()


def test_the_doctor_of_another_machine_s_server_asks_the_server(
    served: Synthq, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.client.LOOPBACK", frozenset())
    heartbeat.register("w", role="rollout", queues=["rollout", "data"], slots=2)
    told = found(served("doctor", "--json").json["checks"])
    assert told == {
        **dict.fromkeys(["python", "packages", "server", "access", "queue rollout", "queue data"], True),
        **{"database": True, "broker": False, "scheduler": False},
    }


def test_the_doctor_names_a_variable_that_cannot_be_read(served: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHQ_LEASE_S", "soon")
    ran = served("doctor")
    assert "✗ settings        SYNTHQ_LEASE_S=soon" in ran.out
    assert "Traceback" not in ran.out + ran.err


@pytest.mark.parametrize("url", ["sqlite:////proc/nothing/x.db", "postgresql://x@127.0.0.1:1/y"])
def test_the_doctor_says_what_is_wrong_with_a_database(outside: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SYNTHQ_DATABASE_URL", url)
    get_settings.cache_clear()
    told = {check.name: check for check in doctor.checks()}
    assert told["database"].ok is (None if url.startswith("sqlite") else False)
    assert told["database"].detail
    assert told["scheduler"].ok is None


@pytest.mark.parametrize("url", ["mysql://x/y", "::::"])
def test_the_doctor_names_a_database_that_synthq_cannot_use(outside: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SYNTHQ_DATABASE_URL", url)
    get_settings.cache_clear()
    told = {check.name: check for check in doctor.checks()}
    assert told["settings"].ok is False
    assert told["settings"].detail.startswith("SYNTHQ_DATABASE_URL is no database that synthq can use")


def test_a_check_that_cannot_look_is_not_ok_with_the_reason(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_program() -> Path:
        raise BrokerUnavailable("no broker to start: install one")

    monkeypatch.delenv("SYNTHQ_REDIS_URL")
    get_settings.cache_clear()
    monkeypatch.setattr("app.embedded_broker.find_binary", no_program)
    told = {check.name: check for check in doctor_parts.checks()}
    assert told["broker program"].ok is False
    assert told["broker program"].detail == "no broker to start: install one"
    assert told["socket"].ok is True


def test_the_doctor_tells_which_engines_there_are(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("transformers" in doctor_parts.engines_here().detail) is (find_spec("torch") is not None)

    monkeypatch.setenv("SYNTHQ_VLLM_PYTHON", sys.executable)
    get_settings.cache_clear()
    check = doctor_parts.engines_here()
    assert check.ok is False
    assert f"{sys.executable} is no Python of an environment with vLLM" in check.hint

    monkeypatch.setattr("app.engines.why_not", lambda name: f"there is no {name}")
    monkeypatch.delenv("SYNTHQ_VLLM_PYTHON")
    monkeypatch.setattr("app.engines.vllm_python", lambda: None)
    get_settings.cache_clear()
    check = doctor_parts.engines_here()
    assert (check.ok, check.hint) == (None, "there is no transformers")

    monkeypatch.setenv("SYNTHQ_ENGINE", "vllm")
    get_settings.cache_clear()
    check = doctor_parts.engines_here()
    assert (check.ok, check.hint) == (False, "there is no vllm")


def test_the_clock_of_the_database_is_compared(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = db.clock
    monkeypatch.setattr(db, "clock", lambda session: real(session) + 60)
    check = doctor_parts.clock()
    assert check.ok is False
    assert "60.0" in check.detail
    assert "ahead of" in check.detail


def test_the_doctor_asks_for_every_queue_that_this_release_serves() -> None:
    from workers.main import ROLES

    steps = {Queue(queue): name for name, role in ROLES.items() for queue in role.queues if queue != Queue.INFERENCE}
    assert dict(doctor_parts.SERVED) == steps


def test_the_doctor_tells_what_can_be_trained_and_misses_a_trainer_once_a_step_waits(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engines.why_not", lambda name: None)
    assert (doctor_parts.trainer().ok, doctor_parts.trainer().detail) == (True, "trains with torch and peft on the CPU")
    monkeypatch.setattr("app.engines.gpus", lambda: 2)
    assert doctor_parts.trainer().detail == "trains with torch and peft on 1 of 2 GPUs"
    monkeypatch.setenv("SYNTHQ_TRAINER_DEVICES", "4")
    get_settings.cache_clear()
    assert (doctor_parts.trainer().ok, doctor_parts.trainer().detail) == (False, "trains with torch and peft on 4 of 2 GPUs")
    monkeypatch.setattr("app.engines.why_not", lambda name: "torch not installed")
    assert (doctor_parts.trainer().ok, doctor_parts.trainer().hint) == (None, "torch not installed")

    told = {check.name: check for check in doctor_parts.queues()}
    assert [told[f"queue {queue}"].ok for queue in ("rollout", "trainer")] == [False, None]
    submit_noop()
    write("UPDATE step SET queue = 'trainer'")
    told = {check.name: check for check in doctor_parts.queues()}
    assert (told["queue trainer"].ok, told["queue trainer"].hint) == (False, "start one with `synthq worker trainer`")


def test_a_package_that_is_missing_or_too_old_is_named() -> None:
    assert doctor._fault("synthq-nothing>=1") == "synthq-nothing is not installed"
    assert "and >=999 is needed" in str(doctor._fault("click>=999"))
    assert doctor._fault("click>=8") is None
    assert doctor._fault("nothing>=1; extra == 'gpu'") is None


def test_each_line_of_the_doctor_is_a_check(home: Path) -> None:
    import subprocess

    line = [sys.executable, "-m", "app.doctor", "--client"]
    ran = subprocess.run(line, capture_output=True, text=True, check=True, env={**os.environ, **environment()})
    assert [set(json.loads(text)) for text in ran.stdout.splitlines()] == [{"name", "ok", "detail", "hint"}] * 2


@pytest.mark.parametrize("words", [["workers.main", "rollout"], ["app.scheduler"], ["app.main"]], ids=lambda words: words[0])
def test_a_variable_that_cannot_be_right_is_a_sentence_to_who_starts_a_process_by_hand(home: Path, words: list[str]) -> None:
    import subprocess

    env = {**os.environ, **environment(), "SYNTHQ_API_PORT": "many"}
    ran = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False, env=env)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines()[-1].endswith("SYNTHQ_API_PORT=many must be a valid integer")
    assert "Traceback" not in ran.stderr
