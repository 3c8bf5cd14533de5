"""Traces through the command line: list, show, export, replay, on episodes that were really played."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path

import pytest
from console import Synthq, row
from core.kit import work_through
from PIL import Image
from test_jobs_cli import submit


@pytest.fixture
def played(served: Synthq) -> Synthq:
    """Two seeds, played by two policies."""
    submit(served, "--policy", "scripted,random", "--name", "play")
    work_through()
    return served


def listed(synthq: Synthq, *flags: str) -> list[dict[str, object]]:
    return list(synthq("traces", "list", "--json", *flags).json["data"])


def test_list_shows_filters_and_counts(played: Synthq) -> None:
    submit(played, "--name", "later")
    work_through()
    lines = played("traces", "list").out.splitlines()
    assert lines[0].split()[:5] == ["EPISODE", "JOB", "SEED", "POLICY", "STATE"]
    assert len(lines) == 1 + 6
    assert len(listed(played, "--job", "play")) == 4
    assert {each["policy"] for each in listed(played, "--policy", "random")} == {"random"}
    assert {each["seed"] for each in listed(played, "--seed", "1")} == {1}
    assert "more than 2" in played("traces", "list", "--limit", "2").err
    assert played("traces", "list", "--seed", "9").err == "no traces fit\n"


def test_the_best_have_the_most_achievements(played: Synthq) -> None:
    everything = listed(played)
    best = listed(played, "--best", "2")
    assert len(best) == 2
    rest = [each for each in everything if each["id"] not in {each["id"] for each in best}]
    goodness = [(each["unlocked"], each["returns"]["native"]) for each in (*best, *rest)]  # type: ignore[index]
    assert min(goodness[:2]) >= max(goodness[2:])


def test_show_has_a_line_for_each_turn(played: Synthq) -> None:
    episode = listed(played, "--policy", "scripted")[0]
    ran = played("traces", "show", str(episode["id"])[:11])
    assert ran.code == 0
    table = ran.out.split("\n\n")[1].splitlines()
    assert table[0].split()[:4] == ["TURN", "ACTIONS", "REWARD", "OUTCOME"] or "UNLOCKED" in table[0]
    assert [int(line.split()[0]) for line in table[1:]] == list(range(int(str(episode["turns"]))))
    shown = played("traces", "show", str(episode["id"]), "--json").json
    assert [turn["index"] for turn in shown["turn_list"]] == list(range(int(str(episode["turns"]))))


def test_show_reads_every_page_of_turns(played: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.traces.TURNS", 1)
    episode = listed(played)[0]
    shown = played("traces", "show", str(episode["id"]), "--json").json
    assert len(shown["turn_list"]) == episode["turns"]


def test_export_writes_every_turn_with_its_prompt_and_pixels(played: Synthq) -> None:
    ran = played("traces", "export", "play", "-o", "out/turns.jsonl")
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in Path("out/turns.jsonl").read_text().splitlines()]
    assert len(lines) == sum(int(str(each["turns"])) for each in listed(played))
    assert [(line["seed"], line["member"], line["index"]) for line in lines] == sorted(
        (line["seed"], line["member"], line["index"]) for line in lines
    )
    roles = [message["role"] for message in lines[0]["messages"]]
    assert roles[0] == "system"
    images = [part for message in lines[0]["messages"] for part in message["parts"] if part.get("type") == "image"]
    assert images
    for image in images:
        png = base64.b64decode(image["url"].removeprefix("data:image/png;base64,"))
        assert hashlib.sha256(png).hexdigest() == image["sha256"]
        assert Image.open(io.BytesIO(png)).size == (64, 64)
    assert {line["job_id"] for line in lines} == {row("play").id}
    assert [path.name for path in Path("out").iterdir()] == ["turns.jsonl"]


def test_export_without_images_keeps_their_hashes(played: Synthq) -> None:
    episode = listed(played)[0]
    played("traces", "export", str(episode["id"]), "-o", "turns.jsonl", "--no-images")
    text = Path("turns.jsonl").read_text()
    assert "base64" not in text
    assert '"sha256"' in text
    assert len(text.splitlines()) == episode["turns"]


def test_an_export_that_fails_leaves_the_old_file(played: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("turns.jsonl").write_text("old")

    def half(*_: object) -> object:
        raise OSError(28, "No space left on device", "turns.jsonl")

    monkeypatch.setattr("cli.traces.Frames.inline", half)
    ran = played("traces", "export", "play", "-o", "turns.jsonl")
    assert ran.code == 1
    assert "No space left on device" in ran.err
    assert [(path.name, path.read_text()) for path in Path().iterdir()] == [("turns.jsonl", "old")]


@pytest.mark.parametrize(("name", "kind"), [("a.gif", "GIF"), ("a.png", "PNG"), ("deep/er/A.GIF", "GIF")])
def test_replay_writes_a_picture_of_the_kind_that_the_name_says(played: Synthq, name: str, kind: str) -> None:
    episode = str(listed(played)[0]["id"])
    assert played("traces", "replay", episode, "-o", name, "--scale", "2").code == 0
    with Image.open(name) as picture:
        assert picture.format == kind


def test_replay_without_a_name_is_named_after_the_episode(played: Synthq) -> None:
    episode = str(listed(played)[0]["id"])
    assert played("traces", "replay", episode).code == 0
    assert Path(f"{episode}.gif").is_file()


@pytest.mark.parametrize(
    "line", ["show nothing", "replay ep_nothing", "export ep_nothing -o x.jsonl", "export nothing -o x.jsonl"]
)
def test_what_names_no_trace_exits_3_and_leaves_no_file(served: Synthq, line: str) -> None:
    ran = served("traces", *line.split())
    assert ran.code == 3
    assert list(Path().iterdir()) == []


def test_a_job_without_traces_exports_nothing(served: Synthq) -> None:
    submit(served)
    ran = served("traces", "export", "@last", "-o", "x.jsonl")
    assert ran.code == 2
    assert "no traces to export" in ran.err
