"""How values look. Pure: no server, no store."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import click
import pytest

from app.scores import EpisodeScore, summarise
from cli import show


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
        (10_000_000, "115 d 17 h"),
    ],
)
def test_lengths_of_time(length: float, text: str) -> None:
    assert show.duration(length) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3e12, "3.0 TB"), (None, "")]
)
def test_sizes(count: float | None, text: str) -> None:
    assert show.size(count) == text


@pytest.mark.parametrize("stamp", [None, "", "yesterday", 5])
def test_a_time_that_is_none_shows_nothing(stamp: object) -> None:
    assert (show.moment(stamp), show.clock(stamp), show.ago(stamp)) == ("", "", "")


def test_times_are_told_from_now() -> None:
    stamp = (datetime.now(UTC) - timedelta(minutes=3, seconds=5)).isoformat().replace("+00:00", "Z")
    assert show.ago(stamp) in ("3 min 5 s ago", "3 min 6 s ago")
    assert show.between(stamp, stamp) == 0


@pytest.mark.parametrize(
    ("value", "percent", "text"),
    [
        ({"mean": 2.345, "low": 1.0, "high": 3.5}, False, "2.35 [1.00, 3.50]"),
        ({"mean": 2.0, "low": None, "high": None}, False, "2.00"),
        ({"mean": 0.125, "low": 0.1, "high": 0.5}, True, "12.5 [10.0, 50.0] %"),
        ({"mean": 0.0, "low": 0.0, "high": 0.0}, False, "0.00 [0.00, 0.00]"),
        ({"mean": None, "low": None, "high": None}, False, "-"),
        (None, False, "-"),
        ("x", False, "-"),
    ],
)
def test_a_figure_has_its_interval_only_where_there_is_one(value: object, percent: bool, text: str) -> None:
    assert show.figure(value, percent=percent) == text


def test_a_score_table_shows_every_figure_of_every_policy() -> None:
    episodes = [
        EpisodeScore(seed=seed, achievements=("eat_cow",) if seed % 2 else (), return_=1.5, length=10) for seed in range(4)
    ]
    names = ["eat_cow", "wake_up"]
    summary = {"policies": {"a": summarise(episodes, names), "b": summarise(episodes[:1], names)}}
    header, first, second, note = show.scores(summary)
    assert header.split()[:3] == ["POLICY", "EPISODES", "ACHIEVEMENTS"]
    assert first.split()[:3] == ["a", "4", "0.50"]
    assert "[" in first
    assert "[" not in second, "one seed has no interval"
    assert "95%" in note
    wide = show.scores(summary, wide=True)
    assert [line.split()[0] for line in wide[-3:]] == ["ACHIEVEMENT", "eat_cow", "wake_up"]


def test_a_difference_says_which_minus_which() -> None:
    figure = {"mean": 1.0, "low": 0.5, "high": 1.5}
    summary = {"policies": {"a": {}, "b": {}}, "differences": [{"a": "a", "b": "b", "achievements": figure}]}
    assert show.scores(summary)[-1].split() == ["b", "-", "a", "1.00", "[0.50,", "1.50]"]


def test_summaries_of_other_kinds_are_shown_as_they_are() -> None:
    job = {"summary": {"episodes": {"seen": 5, "kept": 2}, "lines": 9, "bytes": 1500, "seconds": 61.0, "parts": [1]}}
    assert show.results(job) == ["episodes  5 seen, 2 kept", "lines     9", "bytes     1.5 kB", "seconds   1 min 1 s"]
    assert show.results({"summary": None}) == []


def test_columns_that_are_empty_are_left_out_and_colours_take_no_room() -> None:
    lines = show.table(["a", "b", "c"], [["1", None, show.coloured("failed")], ["22", "", "x"]])
    assert [line.replace("\x1b[31m", "").replace("\x1b[0m", "") for line in lines] == ["A   C", "1   failed", "22  x"]


@pytest.mark.parametrize(
    ("terminal", "env", "colours"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_go_only_to_a_terminal_that_wants_them(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, env: dict[str, str], colours: bool
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert show.colourful(Stream()) is colours


def test_text_of_others_is_one_line_without_controls() -> None:
    assert show.clean("a\nb\x1b[0m\x07\u202e é") == "a b [0m   é"


def test_the_cost_of_an_eval_and_its_failed_episodes_are_told() -> None:
    losses = [{"seed": seed, "policy": "random", "error": f"the world\nbroke at {seed}"} for seed in range(7)]
    cost = {"turns": 1200, "game_steps": 2400, "seconds": 2.2, "turns_per_s": 545.4, "outcomes": {"ok": 1190, "truncated": 10}}
    lines = show.scores({"policies": {"random": {}}, **cost, "errors": losses})
    assert "1,200 turns (1,190 ok, 10 truncated), 2,400 game steps in 2 s: 545 turns/s" in lines
    at = lines.index("failed episodes:")
    assert lines[at + 1] == "  seed 0, random: the world broke at 0"
    assert lines[at + 6] == "  and 2 more; `synthq traces list --state failed` shows them"


def test_one_reason_of_many_failed_episodes_is_one_line_with_a_count() -> None:
    def told(count: int, of: int) -> list[str]:
        errors = [{"seed": seed, "policy": "openai:m", "error": "no key"} for seed in range(count)]
        lines = show.scores({"policies": {"openai:m": {}}, "errors": errors, "episodes": {"failed": of}})
        return lines[lines.index("failed episodes:") + 1 :]

    assert told(1, 1) == ["  seed 0, openai:m: no key"]
    assert told(3, 3) == ["  seeds 0, 1, 2, openai:m: no key"]
    assert told(10, 10) == ["  10 episodes from seed 0 on, openai:m: no key"]
    more = "  and 80 more; `synthq traces list --state failed` shows them"
    assert told(20, 100) == ["  20 episodes from seed 0 on, openai:m: no key", more]


def test_episodes_that_were_cut_short_are_told_with_their_turns() -> None:
    lines = show.scores({"policies": {"openai:m": {}}, "cut_short": {"episodes": 2, "turns": 7}})
    assert lines[-1] == "2 episodes were cut short: 7 of the turns are theirs, and `filter_errors = false` has a filter read them"
    assert not any("cut short" in line for line in show.scores({"policies": {"a": {}}, "cut_short": {"episodes": 0, "turns": 0}}))


def test_a_cancelled_job_tells_what_was_cut_short_apart_from_what_failed() -> None:
    progress = {"done": 3, "failed": 1, "cut_short": 2, "total": 8, "unit": "episodes"}
    job = {"id": "job_a", "state": "cancelled", "progress": progress}
    assert click.unstyle(show.headline(job)) == "job_a cancelled: 3 of 8 episodes, 1 failed, 2 cut short"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_text_is_wrapped_on_a_terminal_whole_and_without_breaking_a_word(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    text = "engine vllm ended; its log is /a/very/long/path-with-dashes/that/no/line/would/hold/in/piece.log, and ends so"
    monkeypatch.setattr("sys.stdout", Stream())
    monkeypatch.setenv("COLUMNS", "50")
    lines = show.wrapped(text, indent=2)
    assert " ".join(line.strip() for line in lines) == text
    assert all(line.startswith("  ") for line in lines)
    assert len(lines) == (3 if terminal else 1)
