from __future__ import annotations

import os
import signal
import subprocess

import pytest
from supervisor.conftest import Home, until

from app.supervisor.state import identity

pytestmark = pytest.mark.integration


def test_up_returns_when_all_runs_and_down_ends_it_all(home: Home) -> None:
    home.write("one", "two")

    up = home.up()
    pids = home.pids()

    assert up.returncode == 0, up.stderr
    assert "synthq is up" in up.stdout
    assert str(home.folder) in up.stdout
    assert all(identity(pid) for pid in pids.values())
    assert "hello from one" in (home.folder / "logs" / "one.log").read_text()

    down = home.down()

    assert down.returncode == 0
    assert "one" in down.stdout
    assert not any(identity(pid) for pid in pids.values())
    assert not (home.folder / "run" / "supervisor.json").exists()


def test_down_where_nothing_runs_says_so_and_succeeds(home: Home) -> None:
    down = home.down()

    assert (down.returncode, down.stdout) == (0, f"nothing runs in {home.folder}\n")


def test_scheduler_and_api_outlive_what_needs_them(home: Home) -> None:
    home.write("api --serve", "scheduler", "one")
    assert home.up().returncode == 0

    home.down()

    ended = [line for line in home.order() if line.endswith("ended")]
    assert ended == ["one ended", "scheduler ended", "api ended"]


def test_a_second_up_in_the_same_home_is_refused_with_the_first_ones_pid(home: Home) -> None:
    home.write("one")
    home.up()

    detached, plain = home.up(), home.run("up", "--procfile", str(home.procfile))

    for second in (detached, plain):
        assert second.returncode == 5
        assert f"pid {home.state()['pid']}" in second.stderr
        assert "synthq down" in second.stderr
    assert home.order() == ["one began"]


def test_a_process_that_dies_is_started_again(home: Home) -> None:
    home.write("one", "two")
    home.up()
    before = home.pids()

    os.kill(before["one"], signal.SIGKILL)
    until(lambda: home.order().count("one began") == 2, "one runs again")
    until(lambda: home.pids()["one"] not in (None, before["one"]), "its new pid is told")

    assert home.pids()["two"] == before["two"]
    assert home.state()["processes"]["one"]["restarts"] == 1
    assert home.state()["processes"]["one"]["last_exit"] == -signal.SIGKILL
    assert "SIGKILL" in (home.folder / "logs" / "one.log").read_text()


def test_what_falls_again_and_again_is_named_with_the_end_of_its_log(home: Home) -> None:
    home.write("one")
    with home.procfile.open("a") as file:  # no Python, which a busy machine may take longer to start than to count it as running
        file.write("broken: sh -c 'echo hello from broken; exit 3'\n")

    up = home.up()

    assert up.returncode == 6
    assert "broken ended, exit status 3" in up.stderr
    assert "hello from broken" in up.stderr
    assert "hello from one" not in up.stderr
    assert home.down().returncode == 0


def test_nothing_outlives_a_supervisor_that_is_killed(home: Home) -> None:
    home.write("one", "deaf --deaf")
    home.up()
    pids = home.pids()

    os.kill(home.state()["pid"], signal.SIGKILL)

    until(lambda: not any(identity(pid) for pid in pids.values()), "its processes are gone", timeout_s=5.0)
    again = home.up()
    assert again.returncode == 0, again.stderr


def test_a_first_interrupt_ends_in_order_and_a_second_one_kills(home: Home) -> None:
    home.write("one", "deaf --deaf")
    with subprocess.Popen(
        home.command("up", "--procfile", str(home.procfile)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        seen = [next(line for line in lines if "synthq is up" in line)]
        pids = home.pids()
        process.send_signal(signal.SIGINT)
        until(lambda: "one ended" in home.order(), "one ended in order")
        assert identity(pids["deaf"])
        process.send_signal(signal.SIGINT)
        seen += list(lines)

    assert process.returncode == 0
    assert any("killing what still runs" in line for line in seen)
    assert not any(identity(pid) for pid in pids.values())


def test_the_console_shows_whose_line_it_is_without_colours_for_a_file(home: Home) -> None:
    home.write("one")
    with subprocess.Popen(
        home.command("up", "--procfile", str(home.procfile)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        line = next(line for line in iter(process.stdout.readline, "") if "hello" in line)
        process.send_signal(signal.SIGTERM)
        process.stdout.read()

    assert line == "one    | hello from one\n"


def test_a_broker_that_does_not_answer_is_named_at_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for goes on starting: the broker may come yet."""
    home.write("one")
    monkeypatch.setenv("SYNTHQ_REDIS_URL", "redis://someone:secret@127.0.0.1:1/0")
    said = "waiting for the broker (SYNTHQ_REDIS_URL): the broker at redis://***@127.0.0.1:1/0 does not answer: "

    up = home.up()

    assert up.returncode == 0, "this one needs no broker"
    assert up.stderr.startswith(said)
    assert said in (home.folder / "logs" / "supervisor.log").read_text()
    assert "secret" not in up.stderr
