"""Groups that begin in a teacher's play, as a user asks for them and sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from console import Ran, Synthq
from core import model_folders
from core.kit import work_through, write
from test_jobs_cli import submit


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A whole model."""
    return model_folders.base(tmp_path / "base")


def learn(served: Synthq, base: Path, *said: str) -> Ran:
    """Submit an rl job half of whose groups begin in the play of the job ``teacher``."""
    curriculum = ["curriculum.job=teacher", "curriculum.share=0.5", "curriculum.turns=[1, 3]", *said]
    return served("submit", "rl", "--model", base, "--iterations", 2, "--json", *(f"--set={each}" for each in curriculum))


def test_a_job_is_begun_from_by_name_and_waited_for_until_it_has_played(served: Synthq, base: Path) -> None:
    submit(served, "--seeds", "100-107", "--name", "teacher")
    teacher = served("status", "teacher", "--json").json["id"]
    ran = learn(served, base)
    assert ran.code == 0, ran.err
    assert ran.json["after"] == [{"job": teacher, "on": "any"}]
    assert ran.json["spec"]["curriculum"]["turns"] == [1, 3]
    work_through()
    assert learn(served, base).json["after"] == []


def test_a_job_that_leaves_too_few_to_begin_from_is_refused_with_its_key(served: Synthq, base: Path) -> None:
    assert "curriculum.job: no job matches 'teacher'" in learn(served, base).err
    submit(served, "--seeds", "0-2", "--name", "teacher")
    work_through()
    ran = learn(served, base)
    assert ran.code == 2
    assert "curriculum.job: job " in ran.err
    assert "left out: their seeds are of evaluation or in data.final_seeds" in ran.err


def test_an_episode_tells_where_it_begins(served: Synthq, tmp_path: Path) -> None:
    submit(served, "--seeds", "1", "--name", "play")
    work_through()
    (plain,) = served("traces", "list", "--json").json["data"]
    assert (plain["start"], plain["start_of"]) == (None, None)
    assert "begins" not in served("traces", "show", plain["id"]).out
    write("UPDATE episode SET start = :it, start_of = 'ep_teacher/40'", it="a" * 64)
    (later,) = served("traces", "list", "--json").json["data"]
    assert (later["start"], later["start_of"]) == ("a" * 64, "ep_teacher/40")
    assert "at turn 40 of ep_teacher; what it tells is counted from there" in served("traces", "show", plain["id"]).out
    assert served("traces", "replay", plain["id"], "-o", tmp_path / "it.png").code == 0
    assert served("traces", "export", plain["id"], "-o", tmp_path / "it.jsonl", "--no-images").code == 0
    assert '"start_of": "ep_teacher/40"' in (tmp_path / "it.jsonl").read_text()
