"""Where a filter's files go: whole or not at all, by name, and nowhere that the user did not name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from console import Ran, Synthq, meanwhile
from core.kit import work_through
from test_follow import claimed_by_then
from test_jobs_cli import submit

SPLIT = ("--set", "filter.split.enabled=true", "--set", "filter.save_episode_ids=true")


@pytest.fixture
def played(served: Synthq) -> Synthq:
    """A served store with play of two seeds in it."""
    submit(served, "--name", "play", "--seeds", "0-3")
    work_through()
    return served


def filtered(played: Synthq, *flags: str) -> Ran:
    """Filter, and wait for it."""
    made = played("submit", "filter", "--job", "play", *flags)
    assert made.code == 0, made.err
    work_through()
    return played("wait", made.job_id)


def names(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_a_folder_gets_every_file_by_its_name(played: Synthq) -> None:
    assert filtered(played, "--output-dir", "data/first", *SPLIT).code == 0
    assert names("data/first") == {"train.jsonl", "val.jsonl", "filter_stats.json", "episode_ids.txt", "dataset.manifest.json"}
    manifest = json.loads(Path("data/first/dataset.manifest.json").read_text())
    lines = {file["name"]: len(Path("data/first", file["name"]).read_text().splitlines()) for file in manifest["files"]}
    assert lines["train.jsonl"] + lines["val.jsonl"] == manifest["lines"]
    assert lines["episode_ids.txt"] == manifest["episodes"]["kept"] == 4


def test_what_is_there_with_these_bytes_is_left_and_what_is_not_is_replaced(played: Synthq) -> None:
    filtered(played, "--output-dir", "data", *SPLIT)
    whole = Path("data/val.jsonl").read_bytes()
    Path("data/val.jsonl").write_bytes(whole[:-5])
    ran = played("wait", "@last")
    assert Path("data/val.jsonl").read_bytes() == whole
    assert "✓ wrote data/val.jsonl" in ran.err
    assert "data/train.jsonl is there already" in ran.err


def test_submit_watch_writes_the_folder(played: Synthq) -> None:
    with meanwhile(lambda: (claimed_by_then("f"), work_through())[0]):
        ran = played("submit", "filter", "--job", "play", "--output-dir", "data", "--name", "f", "--watch")
    assert ran.code == 0, ran.err
    assert names("data") == {"f.jsonl", "filter_stats.json", "f.manifest.json"}
    assert "episodes  4 of 4" in ran.out


def test_an_output_that_ends_in_json_is_one_list_of_the_lines(played: Synthq) -> None:
    assert filtered(played, "--output", "lines.jsonl").code == 0
    ran = filtered(played, "--output", "lines.json")
    assert "✓ wrote lines.json (" in ran.err
    assert json.loads(Path("lines.json").read_text()) == [
        json.loads(line) for line in Path("lines.jsonl").read_text().splitlines()
    ]


def test_damaged_bytes_are_written_nowhere(played: Synthq, home: Path) -> None:
    Path("lines.json").write_text("what was there")
    made = played("submit", "filter", "--job", "play", "--output", "lines.json")
    work_through()
    for path in (home / "artifacts").rglob("*.jsonl"):
        path.write_bytes(path.read_bytes()[:-3] + b"!}\n")
    ran = played("wait", made.job_id)
    assert ran.code == 1
    assert "sha256" in ran.err
    assert f"synthq artifacts {made.job_id} --output-dir DIR" in ran.err
    assert Path("lines.json").read_text() == "what was there"
    assert names(".") == {"lines.json"}


def test_a_folder_elsewhere_is_not_written_for_somebody_elses_spec(played: Synthq, tmp_path: Path) -> None:
    ran = filtered(played, "--output-dir", str(tmp_path / "away"))
    assert ran.code == 0
    assert "is outside this folder" in ran.err
    assert not (tmp_path / "away").exists()


def test_artifacts_fetch_them_too(played: Synthq) -> None:
    filtered(played, *SPLIT)
    assert played("artifacts", "@last", "--output-dir", "data").code == 0
    assert {"train.jsonl", "val.jsonl", "episode_ids.txt"} < names("data")


def test_status_shows_what_each_key_removed(played: Synthq) -> None:
    filtered(played, "--set", "filter.limit=5", "--set", "filter.seeds=0-2")
    shown = played("status", "@last").out
    rows = [line.split() for line in shown.splitlines()]
    assert ["seeds", "1", "4", "episodes"] in rows
    assert "dataset.manifest.json" in shown
