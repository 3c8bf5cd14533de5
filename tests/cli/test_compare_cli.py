"""The verb `compare` against the real API: tables, JSON, a picture, a page, and what is refused."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from console import Synthq
from core.kit import submit_eval, work_through

SMALL = {"max_turns": 25, "env_config": {"length": 25}, "save_frames": "none"}


@pytest.fixture
def played(served: Synthq, monkeypatch: pytest.MonkeyPatch) -> Synthq:
    """The command line, and two jobs that were played."""
    monkeypatch.setenv("SYNTHQ_WORKER_ID", "worker-of-the-test")
    submit_eval("0-11", name="base", **SMALL)
    submit_eval("0-10", name="tuned", policies=["scripted"], **SMALL)
    work_through()
    return served


def lines_of(out: str, start: str) -> list[list[str]]:
    """The lines of a table, by the start of its heading, in columns."""
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(start))
    rows = []
    for line in lines[at:]:
        if not line:
            break
        rows.append(re.split(r" {2,}", line.strip()))
    return rows


def test_the_tables_tell_arms_differences_achievements_and_outcomes(played: Synthq) -> None:
    ran = played("compare", "base", "tuned")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == "2 arms on 11 seeds, 11 episodes each"
    arms = lines_of(ran.out, "ARM")
    assert [row[:2] for row in arms] == [["ARM", "POLICY"], ["base", "random"], ["tuned", "scripted"]]
    (headings, difference) = lines_of(ran.out, "DIFFERENCE")
    assert difference[0] == "tuned - base"
    achievements = difference[headings.index("ACHIEVEMENTS")]
    assert re.fullmatch(r"\+\d+\.\d\d \[\+\d+\.\d\d, \+\d+\.\d\d\]\*", achievements), "the expert unlocks more, for certain"
    rates = lines_of(ran.out, "UNLOCKED")
    assert len(rates) == 23
    assert rates[0][1:] == ["BASE", "TUNED", "GAIN"]
    makes = lines_of(ran.out, "WHAT MAKES TUNED - BASE")
    assert makes[0][1:] == ["GAIN IN POINTS", "SHARE OF IT IN %"]
    parts = [int(row[2].split()[0]) for row in makes[1:]]
    assert parts == sorted(parts, reverse=True)
    assert abs(sum(parts) - 100) <= len(parts), "they make all of it, as far as rounding goes"
    outcomes = lines_of(ran.out, "TURNS BY OUTCOME")
    assert outcomes[0][1:3] == ["TURNS", "OK"]
    assert outcomes[1][2] == "100.0 %"
    assert ran.out.splitlines()[-1] == "! 1 seed left out that not all arms were asked to play"


def test_json_is_the_whole_comparison(played: Synthq) -> None:
    found = played("compare", "base", "tuned", "--json").json
    assert [arm["label"] for arm in found["arms"]] == ["base", "tuned"]
    assert found["method"]["resamples"] == 10_000
    assert found["schema_version"] == 1


def test_arms_that_differ_in_more_than_who_played_are_refused(played: Synthq) -> None:
    submit_eval("0-11", name="longer", **{**SMALL, "max_turns": 26})
    work_through()
    ran = played("compare", "base", "longer")
    assert (ran.code, ran.out) == (5, "")
    assert "max_turns: 25 (base), 26 (longer)" in ran.err
    ran = played("compare", "base", "longer", "--anyway")
    assert ran.code == 0
    assert "! not played alike: max_turns: 25 (base), 26 (longer)" in ran.out


def test_a_name_that_nobody_has_is_not_found(played: Synthq) -> None:
    ran = played("compare", "base", "tund")
    assert (ran.code, ran.out) == (3, "")


class Page(HTMLParser):
    """What a page holds: its text, its tags, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.fetched += [value for name in ("src", "href", "xlink:href") if (value := given.get(name)) and value[0] != "#"]
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_needs_nothing_else_and_holds_the_tables_and_plots(played: Synthq) -> None:
    pytest.importorskip("matplotlib")
    ran = played("compare", "base", "tuned", "--html", "page.html")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "2 arms on 11 seeds, 11 episodes each")
    text = Path("page.html").read_text()
    page = Page(text)
    assert page.fetched == []
    assert page.open == []
    assert "script" not in page.tags
    assert (page.tags.count("svg"), page.tags.count("table")) == (4, 5)
    assert len(set(page.ids)) == len(page.ids)
    for said in ("tuned - base", "collect wood", "1 seed left out", "10,000", "env_config.length"):
        assert said in text


def test_a_picture_is_the_same_every_time(played: Synthq) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one.png", "two.png"):
        assert played("compare", "base", "tuned", "--png", name).code == 0
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    assert Path("one.png").read_bytes().startswith(b"\x89PNG")


def test_the_text_of_a_job_cannot_drive_a_page(played: Synthq) -> None:
    from cli.charts import page

    pytest.importorskip("matplotlib")
    found = played("compare", "base", "tuned", "--json").json
    found["notes"] = ["<script>alert(1)</script>"]
    made = Page(page.made(found))
    assert "script" not in made.tags


def test_pictures_without_matplotlib_say_how_to_get_it(played: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = played("compare", "base", "tuned", "--png", "x.png")
    assert ran.code == 2
    assert "pictures need matplotlib; `pip install -e '.[plots]'`" in ran.err
    assert not Path("x.png").exists()
