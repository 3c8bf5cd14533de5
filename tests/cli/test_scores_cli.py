"""Scores of judges through the command line: one episode, or a file that is taken whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from console import Synthq
from core.kit import work_through
from test_jobs_cli import submit


@pytest.fixture
def played(served: Synthq) -> Synthq:
    """Two seeds, played."""
    submit(served, "--policy", "random", "--name", "play")
    work_through()
    return served


def ids(synthq: Synthq) -> list[str]:
    return [row["id"] for row in synthq("traces", "list", "--json").json["data"]]


def shown(synthq: Synthq, id: str) -> Any:
    return synthq("traces", "show", id, "--json").json["scores"]


def write(*lines: Any) -> str:
    Path("s.jsonl").write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return "s.jsonl"


def test_one_episode_gets_scores_and_loses_one(played: Synthq) -> None:
    id = ids(played)[0]
    assert played("traces", "score", id[:-1], "quality=0.8", "style=-3").out == f"{id}: quality 0.8, style -3\n"
    assert played("traces", "score", id, "style=none", "--json").json["data"] == [{"episode": id, "scores": {"quality": 0.8}}]
    assert "scores" in played("traces", "show", id).out
    assert "quality 0.8" in played("traces", "list").out
    assert played("traces", "score", id, "quality=none").out == f"{id}: no scores\n"
    assert "SCORES" not in played("traces", "list").out


def test_a_file_scores_many(played: Synthq) -> None:
    one, two = ids(played)
    path = write({"episode": one, "scores": {"a": 1}}, "\n", {"episode": two, "scores": {"a": 0.25, "b": None}})
    ran = played("traces", "score", "--file", path)
    assert (ran.code, ran.out, ran.err) == (0, "", "✓ scored 2 episodes\n")
    assert (shown(played, one), shown(played, two)) == ({"a": 1.0}, {"a": 0.25})


def test_every_bad_line_is_told_with_its_number_and_nothing_is_stored(played: Synthq) -> None:
    one, two = ids(played)
    path = write(
        {"episode": one, "scores": {"a": 1}},
        "not json\n",
        {"episode": one, "scores": {"a": float("nan")}},
        {"episode": one, "score": {"a": 1}},
        {"episode": 3, "scores": {"a": 1}},
        {"episode": one, "scores": []},
        {"episode": one, "scores": {"a": "1"}},
        {"episode": one, "scores": {"a": True}},
    )
    ran = played("traces", "score", "--file", path)
    assert ran.code == 2
    assert [line.split(": ")[0].strip() for line in ran.err.splitlines()[1:]] == [f"s.jsonl:{n}" for n in range(2, 9)]
    assert "7 problems in the scores" in ran.err
    path = write(
        {"episode": one, "scores": {"a": 1}},
        "\n",
        {"episode": "ep_nobody", "scores": {"a": 1}},
        {"episode": two, "scores": {"a b": 1}},
    )
    ran = played("traces", "score", "--file", path)
    assert ran.code == 2
    assert "s.jsonl:4" in ran.err
    path = write(
        {"episode": one, "scores": {"a": 1}},
        "\n",
        {"episode": "ep_nobody", "scores": {"a": 1}},
        {"episode": one, "scores": {"a": 2}},
    )
    ran = played("traces", "score", "--file", path)
    assert ran.code == 2
    assert "s.jsonl:3: no trace matches 'ep_nobody'" in ran.err
    assert "has a score by a in s.jsonl:1 already" in ran.err
    assert [shown(played, id) for id in (one, two)] == [None, None]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "an EPISODE with JUDGE=SCORE"),
        (("ep_x",), 2, "an EPISODE with JUDGE=SCORE"),
        (("ep_nobody", "a=1"), 3, "no trace matches"),
        (("ep_x", "a"), 2, "is no score"),
        (("ep_x", "a=nan"), 2, "a finite number"),
        (("ep_x", "a=high"), 2, "a finite number"),
        (("ep_x", "a=1", "a=2"), 2, "given twice"),
        (("ep_x", "a=1", "--file", "x"), 2, "leave out EPISODE"),
        (("--file", "nothing.jsonl"), 2, "cannot be read"),
    ],
)
def test_words_that_cannot_be_right_are_refused(served: Synthq, words: tuple[str, ...], code: int, said: str) -> None:
    ran = served("traces", "score", *words)
    assert (ran.code, said in ran.err) == (code, True), ran.err
