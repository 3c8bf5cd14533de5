"""Staying with a job: wait, watch, logs, events, and the exit codes that say how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from console import Ran, Synthq, break_steps, meanwhile, program, row
from core.kit import claim, work_through
from test_jobs_cli import SMALL, submit

from app import db, lifecycle
from app.errors import BadFlag, ServerUnreachable
from app.store import events
from cli import follow, progress
from cli.follow import seconds, worst
from cli.progress import Pace


def append(job_id: str, type: str, message: str, level: str = "info") -> None:
    with db.writing() as session:
        events.append(session, job_id, type, message, level=level)


def cancel(job_id: str) -> None:
    with db.writing() as session:
        lifecycle.cancel(session, row(job_id))


@pytest.mark.parametrize(
    ("text", "length"),
    [("30", 30), ("30s", 30), ("0", 0), ("1.5s", 1.5), ("10m", 600), ("2h", 7200), ("1d", 86400), ("3 min", 180)],
)
def test_a_length_of_time_is_read(text: str, length: float) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "soon", "-3s", "1w", "2h30m", "1e3", "nan", "inf", "٣s"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(BadFlag, match="30s, 10m, 2h or 1d"):
        seconds(text)


@pytest.mark.parametrize(
    ("codes", "code"), [([], 0), ([0, 0], 0), ([0, 101], 101), ([103, 0, 7], 103), ([103, 100], 100), ([100, 5], 5), ([3, 5], 5)]
)
def test_the_worst_exit_code_stands_for_several(codes: list[int], code: int) -> None:
    assert worst(codes) == code


ENDS = {"succeeded": 0, "failed": 100, "cancelled": 103}


def bring_to(state: str, job_id: str) -> None:
    """End the newest job in a state."""
    {"succeeded": work_through, "failed": lambda: break_steps("no luck"), "cancelled": lambda: cancel(job_id)}[state]()
    assert row(job_id).state == state


@pytest.mark.parametrize("state", ENDS)
@pytest.mark.parametrize("verb", ["wait", "watch", "logs -f", "events -f", "status --exit-code"])
def test_exit_codes_of_an_ended_job(served: Synthq, verb: str, state: str) -> None:
    job_id = submit(served)
    bring_to(state, job_id)
    assert served(*verb.split(), job_id).code == ENDS[state]


@pytest.mark.parametrize("state", ENDS)
def test_wait_returns_however_the_job_ends(served: Synthq, state: str) -> None:
    job_id = submit(served)
    with meanwhile(lambda: bring_to(state, job_id)):
        ran = served("wait", job_id)
    assert (ran.code, ran.out) == (ENDS[state], "")
    assert f"{job_id} {state} after" in ran.err


def test_wait_gives_up_after_its_timeout_with_7_and_looks_once_with_101(served: Synthq) -> None:
    job_id = submit(served)
    started = time.monotonic()
    ran = served("wait", job_id, "--timeout", "0.5s")
    assert ran.code == 7
    assert 0.5 <= time.monotonic() - started < 10
    assert f"{job_id} has not ended after" in ran.err
    assert served("wait", job_id, "--timeout", "0").code == 101
    assert served("status", job_id, "--exit-code").code == 101


def test_wait_for_several_gives_the_worst(served: Synthq) -> None:
    good = submit(served)
    work_through()
    cancelled = submit(served)
    cancel(cancelled)
    bad = submit(served)
    break_steps("no luck")
    assert served("wait", good, cancelled).code == 103
    ran = served("wait", good, cancelled, bad, "--json")
    assert ran.code == 100
    assert {job["id"]: job["state"] for job in ran.json["data"]} == {good: "succeeded", cancelled: "cancelled", bad: "failed"}
    assert served("wait", good, "nothing").code == 3


def test_watch_shows_progress_and_warnings_and_prints_the_scores(served: Synthq) -> None:
    job_id = submit(served)
    append(job_id, "step.requeued", "the worker was lost", level="warning")
    with meanwhile(work_through):
        ran = served("watch", job_id)
    assert ran.code == 0
    assert "warning: the worker was lost" in ran.err
    assert f"{job_id} succeeded after" in ran.err
    assert ran.out.startswith("POLICY")


def test_submit_watch_ends_with_the_job_s_exit_code(served: Synthq) -> None:
    def fail_it() -> None:
        claimed_by_then("a watched job")
        break_steps("no luck")

    with meanwhile(fail_it):
        ran = served("submit", "eval", *SMALL, "--watch", "--name", "a-watched-job")
    assert ran.code == 100
    assert "no luck" in ran.err
    assert ran.out.splitlines()[:2] == ["✓ Job created", f"job_id: {ran.job_id}"]


def claimed_by_then(name: str) -> None:
    """Wait until a job of this name is there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            row(name.replace(" ", "-"))
        except LookupError:
            pass
        except Exception as error:
            if "no job matches" not in str(error):
                raise
        else:
            return
        time.sleep(0.02)
    raise AssertionError(f"{name} did not come")


def test_submit_watch_json_prints_one_object_the_ended_job(served: Synthq) -> None:
    with meanwhile(lambda: (claimed_by_then("w"), work_through())[0]):
        ran = served("submit", "eval", *SMALL, "--watch", "--json", "--name", "w")
    assert ran.code == 0
    assert (ran.json["state"], ran.json["schema_version"]) == ("succeeded", 1)


def test_submit_watch_id_only_prints_the_id_alone(served: Synthq) -> None:
    with meanwhile(lambda: (claimed_by_then("w"), work_through())[0]):
        ran = served("submit", "eval", *SMALL, "--watch", "--id-only", "--name", "w")
    assert ran.out == f"{row('w').id}\n"


def test_events_come_in_order_without_gaps_and_by_level(served: Synthq) -> None:
    job_id = submit(served)
    for n in range(450):
        append(job_id, "noted", f"note {n}", level="warning" if n % 100 == 0 else "info")
    lines = served("events", job_id).out.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1, row(job_id).event_seq + 1))
    warned = served("events", job_id, "--level", "warning").out.splitlines()
    assert [line.split()[-1] for line in warned] == ["0", "100", "200", "300", "400"]
    last = served("logs", job_id, "--tail", "2").out.splitlines()
    assert [line.split(maxsplit=1)[1] for line in last] == ["note 448", "note 449"]
    assert served("logs", job_id, "--tail", "0").out == ""


def test_events_as_json_are_one_object_a_line(served: Synthq) -> None:
    import json

    job_id = submit(served)
    found = [json.loads(line) for line in served("events", job_id, "--json").out.splitlines()]
    assert [each["seq"] for each in found] == list(range(1, row(job_id).event_seq + 1))
    assert {each["schema_version"] for each in found} == {1}


def test_following_sees_what_comes_and_ends_with_the_job(served: Synthq) -> None:
    job_id = submit(served)

    def go_on() -> None:
        append(job_id, "noted", "first")
        time.sleep(0.5)
        append(job_id, "noted", "second")
        work_through()

    with meanwhile(go_on):
        ran = served("events", job_id, "-f")
    assert ran.code == 0
    assert [int(line.split()[0]) for line in ran.out.splitlines()] == list(range(1, row(job_id).event_seq + 1))


def test_control_characters_of_others_do_not_reach_the_terminal(served: Synthq) -> None:
    job_id = submit(served)
    append(job_id, "noted", "red \x1b[31m bell \x07 \r\n two")
    for verb in ("logs", "events"):
        said = served(verb, job_id).out
        assert "\x1b" not in said
        assert "\x07" not in said
        assert "red  [31m bell" in said


def test_following_outlives_a_server_that_is_away(served: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submit(served)
    work_through()
    real, calls = follow.new_events, []

    def shaky(*args: object) -> object:
        calls.append(args)
        if len(calls) in (2, 3):
            raise ServerUnreachable("no synthq server answers")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(follow, "new_events", shaky)
    ran = served("logs", job_id, "-f")
    assert ran.code == 0
    assert ran.err.count("trying again") == 1
    assert "the server is back" in ran.err


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PATIENCE_S", 0.0)

    def away() -> None:
        raise ServerUnreachable("nobody")

    with pytest.raises(ServerUnreachable):
        follow.patient(away)


@pytest.mark.parametrize("line", ["watch", "wait", "logs -f", "events -f"])
def test_ctrl_c_detaches_and_leaves_the_job_alone(served: Synthq, line: str) -> None:
    job_id = submit(served)
    started = subprocess.Popen(
        [sys.executable, "-m", "cli.main", *line.split(), job_id], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with started:
        until_it_polls(started.pid)
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=30)
    assert started.returncode == 130
    assert "Traceback" not in err
    assert f"detached; {job_id} goes on" in err
    assert row(job_id).state == "queued"


def opened(pid: int, fd: str) -> str:
    """What a program has open there; nothing where it was closed since it was listed."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except FileNotFoundError:
        return ""


def until_it_polls(pid: int) -> None:
    """Wait until a program has imported what it needs and talks to the server."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any(opened(pid, fd).startswith("socket:") for fd in os.listdir(f"/proc/{pid}/fd")):
            time.sleep(1.0)  # past the first answers, inside a pause between two looks
            return
        time.sleep(0.02)
    raise AssertionError("it never connected")


def test_a_reader_that_leaves_ends_it_quietly(served: Synthq) -> None:
    job_id = submit(served)
    for n in range(300):
        append(job_id, "noted", f"note {n} " + "x" * 300)
    line = f"{sys.executable} -m cli.main logs {job_id} | head -1; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert len(ran.stdout.splitlines()) == 1
    assert ran.stderr == ""
    assert ran.returncode == 141


def test_the_pace_is_the_mean_of_the_last_seconds() -> None:
    now = [0.0]
    pace = Pace(clock=lambda: now[0])
    pace.see(0)
    assert pace.per_s is None
    for second in range(1, 101):
        now[0] = float(second)
        pace.see(2 * second if second <= 50 else 100 + 4 * (second - 50))
    assert pace.per_s == pytest.approx(4.0)
    assert pace.left_s(400) == pytest.approx(25.0)
    pace.see(0)
    assert pace.per_s is None


def test_a_bar_is_drawn_on_a_terminal(served: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    screen = Terminal()
    with progress.meter(screen) as display:
        display.update(served("eval", *SMALL, "--name", "drawn", "--json").json)
        display.tell("a line that stays")
    assert "drawn" in screen.getvalue()
    assert "a line that stays" in screen.getvalue()


def test_without_a_terminal_no_line_is_printed_anew_for_its_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress.Lines()
    job = {"id": "job_1", "state": "queued", "progress": {"done": 0, "total": 4, "unit": "episodes"}}
    for endpoint in ("ep_1", "ep_2"):
        for passed in range(60):
            lines.update(job | {"waiting": f"endpoint {endpoint} is loading /models/tiny ({passed} s)"})
    lines.update(job | {"state": "running"})
    assert capsys.readouterr().err.splitlines() == [
        "job_1 queued: endpoint ep_1 is loading /models/tiny (0 s), 0 of 4 episodes",
        "job_1 queued: endpoint ep_2 is loading /models/tiny (0 s), 0 of 4 episodes",
        "job_1 running, 0 of 4 episodes",
    ]


def test_a_program_without_a_terminal_prints_no_colours(served: Synthq) -> None:
    submit(served)
    for ran in (program("list"), program("status"), program("list", FORCE_COLOR="1")):
        assert ran.code == 0
        assert "\x1b" not in ran.out


def test_filter_watch_writes_its_output(served: Synthq) -> None:
    submit(served, "--name", "play")
    work_through()
    with meanwhile(lambda: (claimed_by_then("f"), work_through())[0]):
        ran = served("submit", "filter", "--job", "play", "--output", "sub/train.jsonl", "--name", "f", "--watch")
    assert ran.code == 0, ran.err
    lines = Path("sub/train.jsonl").read_text().splitlines()
    summary = row("f").summary
    assert summary is not None
    assert len(lines) == summary["lines"] > 0
    assert f"✓ wrote sub/train.jsonl ({len(lines)} lines" in ran.err
    assert [path.name for path in Path("sub").iterdir()] == ["train.jsonl"]


def filtered(served: Synthq, output: str) -> Ran:
    """Play, filter, and wait for the filter."""
    submit(served, "--name", "play")
    work_through()
    made = served("submit", "filter", "--job", "play", "--output", output)
    assert made.code == 0, made.err
    work_through()
    return served("wait", made.job_id)


def test_wait_writes_the_output_of_a_filter_once(served: Synthq) -> None:
    assert "✓ wrote train.jsonl" in filtered(served, "train.jsonl").err
    assert "train.jsonl is there already" in served("wait", "@last").err


def test_wait_writes_nothing_outside_the_folder(served: Synthq, tmp_path: Path) -> None:
    for output in (str(tmp_path / "away.jsonl"), "../away.jsonl"):
        ran = filtered(served, output)
        assert ran.code == 0
        assert "was not written" in ran.err
        assert not (tmp_path / "away.jsonl").exists()


def test_wait_follows_no_link_out_of_the_folder(served: Synthq, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    Path("link").symlink_to(tmp_path / "away")
    assert "was not written" in filtered(served, "link/train.jsonl").err
    assert list((tmp_path / "away").iterdir()) == []


def test_artifacts_are_listed_and_downloaded_whole(served: Synthq) -> None:
    filtered(served, "train.jsonl")
    listed = served("artifacts", "@last", "--json").json["data"]
    assert listed[0]["id"] in served("artifacts").out
    ran = served("artifacts", "@last", "--download", "files")
    assert ran.code == 0
    assert {path.read_bytes() for path in Path("files").iterdir()} >= {Path("train.jsonl").read_bytes()}
    assert "is there already" in served("artifacts", "@last", "--download", "files").err


def test_damaged_bytes_are_not_kept(served: Synthq, home: Path) -> None:
    filtered(served, "train.jsonl")
    for path in (home / "artifacts").rglob("*.jsonl"):
        path.write_bytes(path.read_bytes()[:-2] + b"!\n")
    ran = served("artifacts", "@last", "--download", "files")
    assert ran.code == 1
    assert "sha256" in ran.err
    assert list(Path("files").iterdir()) == []


def test_an_eval_that_runs_is_told_as_running(served: Synthq) -> None:
    job_id = submit(served)
    claim()
    ran = served("wait", job_id, "--timeout", "0")
    assert ran.code == 101
    assert "running" in served("status", job_id).out
