"""eval and filter as a user runs them: `synthq up`, the command line, real workers, and `synthq down`."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from play.play_kit import dist_info
from up_and_running import Running, family, until, up

from app.supervisor.state import identity

pytestmark = pytest.mark.integration

TESTS = Path(__file__).resolve().parents[1]
SHORT = ("--set", "eval.max_turns=40")


@pytest.fixture(scope="module")
def synthq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running synthq, its workers with the test policies, and the command line in an empty folder."""
    folder = tmp_path_factory.mktemp("user")
    site = tmp_path_factory.mktemp("site")
    dist_info(site)
    path = os.pathsep.join([str(TESTS.parent), str(site), str(TESTS), str(TESTS / "play")])
    with up(tmp_path_factory.mktemp("home") / "h", folder, PYTHONPATH=path) as running:
        yield running


@pytest.fixture(scope="module")
def job(synthq: Running) -> dict[str, Any]:
    """The eval that most tests look at: three seeds, two policies, 40 turns, watched to its end."""
    words = ["--env", "crafter", "--seeds", "0-2", "--policy", "random,scripted", *SHORT, "--name", "first"]
    watched = synthq("submit", "eval", *words, "--watch")
    assert "scripted" in watched.out + watched.err
    return synthq.job("first")


def traces(synthq: Running, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = synthq("traces", "list", "--all", "--json", *words).json["data"]
    return found


def test_an_eval_is_played_and_scored(synthq: Running, job: dict[str, Any]) -> None:
    assert (job["state"], job["reason"], job["progress"]["done"], job["progress"]["total"]) == ("succeeded", None, 6, 6)
    assert {name: scores["episodes"] for name, scores in job["summary"]["policies"].items()} == {"random": 3, "scripted": 3}
    assert job["summary"]["episodes"] == {"asked": 6, "done": 6, "failed": 0, "missing": 0}
    assert job["summary"]["game_steps"] == sum(trace["length"] for trace in traces(synthq, "--job", "first"))
    told = synthq("status", job["id"])
    assert "succeeded" in told.out
    assert "scripted" in told.out


def test_its_traces_are_listed_shown_and_drawn(synthq: Running, job: dict[str, Any]) -> None:
    rows = traces(synthq, "--job", job["id"])
    assert sorted((row["seed"], row["policy"]) for row in rows) == [(s, p) for s in range(3) for p in ("random", "scripted")]
    assert {row["seed"] for row in traces(synthq, "--job", job["id"], "--seed", "1")} == {1}
    best = max(rows, key=lambda row: (row["unlocked"], row["returns"]["native"]))
    shown = synthq("traces", "show", best["id"], "--json").json
    assert len(shown["turn_list"]) == best["turns"] == 40
    assert sum(turn["reward"] for turn in shown["turn_list"]) == best["unlocked"]
    synthq("traces", "replay", best["id"], "--output", "best.gif", "--scale", "2", "--max-turns", "10")
    with Image.open(io.BytesIO((synthq.folder / "best.gif").read_bytes())) as picture:
        assert picture.format == "GIF"
        assert picture.n_frames > 1


def test_its_traces_are_exported_with_the_frames_they_name(synthq: Running, job: dict[str, Any]) -> None:
    (row,) = traces(synthq, "--job", job["id"], "--seed", "0", "--policy", "scripted")
    synthq("traces", "export", row["id"], "--output", "turns.jsonl")
    lines = [json.loads(line) for line in (synthq.folder / "turns.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(40))
    for line in lines:
        (image,) = [part for message in line["messages"] for part in message["parts"] if part["type"] == "image"]
        png = Image.open(io.BytesIO(_bytes(image["url"])))
        assert (hashlib.sha256(_bytes(image["url"])).hexdigest(), png.size) == (line["frame"], (64, 64))


def _bytes(url: str) -> bytes:
    return base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)


def test_a_filter_that_waits_for_an_eval_writes_its_lines(synthq: Running) -> None:
    played = synthq("submit", "eval", "--seeds", "5-6", "--policy", "scripted", *SHORT, "--id-only").out.strip()
    synthq("submit", "filter", "--job", played, "--after", f"ok:{played}", "--output", "data/play.jsonl", "--watch")
    made = synthq.job("@last")
    data = (synthq.folder / "data" / "play.jsonl").read_bytes()
    assert (made["kind"], made["state"], made["after"]) == ("filter", "succeeded", [{"job": played, "on": "ok"}])
    assert made["summary"]["sha256"] == hashlib.sha256(data).hexdigest()
    lines = [json.loads(line) for line in data.splitlines()]
    assert len(lines) == made["summary"]["lines"] == sum(row["turns"] for row in traces(synthq, "--job", played))
    assert all([message["role"] for message in line["messages"]] == ["system", "user", "assistant"] for line in lines)
    assert {line["metadata"]["job"] for line in lines} == {played}


def test_another_packages_environment_is_played_by_the_workers(synthq: Running) -> None:
    words = ["--env", "corridor", "--seeds", "0-5", "--policy", "random", "--set", 'eval.invalid_reply="skip"', *SHORT]
    watched = synthq("submit", "eval", *words, "--name", "elsewhere", "--watch")
    assert "'corridor' is not built in" in watched.err
    rows = traces(synthq, "--job", "elsewhere")
    assert {row["env"] for row in rows} == {"corridor"}
    assert {row["ended"] for row in rows} <= {"fell", "out", "turns"}
    assert "fell" in synthq("traces", "show", next(row["id"] for row in rows if row["ended"] == "fell")).out
    synthq("traces", "replay", rows[0]["id"], "--output", "corridor.png")
    synthq("traces", "replay", rows[0]["id"], "--output", "corridor.gif")
    with Image.open(synthq.folder / "corridor.gif") as picture:
        assert picture.n_frames >= 2


def test_the_same_idempotency_key_is_the_same_job(synthq: Running) -> None:
    words = ["submit", "eval", "--seeds", "7", "--policy", "random", *SHORT, "--idempotency-key", "once", "--id-only"]
    first, second = synthq(*words).out, synthq(*words).out
    assert first == second
    third = synthq("submit", "eval", "--seeds", "8", *words[4:], code=5)
    assert "once" in third.err


def test_a_failed_job_is_retried_with_what_is_missing(synthq: Running) -> None:
    trouble = synthq.home / "trouble.json"
    trouble.write_text(json.dumps({"what": "break", "seed": 1, "turn": 3, "once": False}))
    synthq("submit", "eval", "--seeds", "0-2", "--policy", "fragile", *SHORT, "--name", "broken", "--watch", code=100)
    failed = synthq.job("broken")
    assert failed["reason"] == "1 of 3 episodes failed: seed 1: RuntimeError: the dice fell off the table"
    assert failed["summary"]["episodes"]["done"] == 2
    assert "episode.failed" in synthq("events", "broken").out
    before = {row["seed"]: row["id"] for row in traces(synthq, "--job", "broken", "--state", "done")}
    trouble.unlink()
    assert synthq("retry", "broken", "--json").json["data"][0]["attempt"] == 2
    synthq("wait", "broken", "--timeout", "30s")
    after = {row["seed"]: row["id"] for row in traces(synthq, "--job", "broken", "--state", "done")}
    assert {seed: after[seed] for seed in (0, 2)} == before
    assert set(after) == {0, 1, 2}
    synthq("retry", "broken", code=5)


def test_a_running_job_is_cancelled_and_then_removed(synthq: Running) -> None:
    words = ["--seeds", "0-499", "--policy", "scripted", *SHORT, "--set", "eval.episodes_per_step=4"]
    job_id = synthq("submit", "eval", *words, "--id-only").out.strip()
    until(lambda: synthq.job(job_id)["progress"]["done"] > 0, "some of it is played")
    synthq("rm", job_id, "--yes", code=5)
    synthq("cancel", job_id)
    synthq("wait", job_id, "--timeout", "30s", code=103)
    kept = traces(synthq, "--job", job_id)
    assert 0 < len(kept) < 500
    synthq("cancel", job_id)
    synthq("rm", job_id, "--yes")
    synthq("status", job_id, code=3)
    synthq("traces", "show", kept[0]["id"], code=3)


def test_down_leaves_no_process(synthq: Running, job: dict[str, Any]) -> None:
    # The last one, for it ends what the others use.
    pids = synthq.pids()
    everyone = family(pids)
    assert len(everyone) > len(pids), "workers have pool processes"
    assert all(everyone.values())
    synthq("down")
    until(lambda: all(identity(pid) != known for pid, known in everyone.items()), "every process is gone", timeout_s=5)
    assert not (synthq.home / "run" / "supervisor.json").exists()
    synthq("status", job["id"], code=6)
