"""The verb `metrics`: a table with little curves, JSON, a picture, and points as they come."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from console import Synthq, break_steps, meanwhile
from core.kit import submit_noop

from app import db
from app.models import Job
from app.store import metrics
from cli.metrics import number, spark


@pytest.fixture
def measured(served: Synthq) -> Job:
    """A job of which something was measured."""
    job = submit_noop(name="trained")
    for index in range(60):
        write(job.id, "update", index, loss=1 - index / 60, bad=math.nan if index == 3 else 1.0)
    write(job.id, "eval", 0, **{"achievements": 1.0, "achievements/low": 0.5, "achievements/high": 1.5})
    return job


def write(job_id: str, scope: str, index: int, **values: Any) -> None:
    with db.writing() as session:
        metrics.record(session, job_id, scope, index, values)


def test_the_table_has_a_line_and_a_curve_for_each_name(served: Synthq, measured: Job) -> None:
    ran = served("metrics", "trained")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert "eval: 1 point, at 0" in lines
    assert "update: 60 points, 0 to 59" in lines
    (loss,) = [line.split() for line in lines if line.startswith("loss")]
    assert loss[1:5] == ["1", "0.01667", "0.01667", "1"]
    assert (len(loss[5]), loss[5][0], loss[5][-1]) == (40, "█", "▁")


def test_one_scope_alone_can_be_asked_for(served: Synthq, measured: Job) -> None:
    found = served("metrics", "trained", "--scope", "eval", "--json").json
    assert [(point["scope"], point["index"]) for point in found["data"]] == [("eval", 0)]
    assert [scope["scope"] for scope in found["scopes"]] == ["eval", "update"]
    ran = served("metrics", "trained", "--scope", "evil")
    assert (ran.code, ran.out) == (3, "")
    assert "in the scope 'evil' (its scopes: eval, update)" in ran.err


def test_what_was_no_number_is_null_in_json_and_nan_in_the_table(served: Synthq, measured: Job) -> None:
    points = served("metrics", "trained", "--scope", "update", "--json").json["data"]
    assert [point["values"]["bad"] for point in points[2:5]] == [1.0, None, 1.0]
    write(measured.id, "update", 60, bad=math.inf)
    assert any(line.split()[:3] == ["bad", "1", "nan"] for line in served("metrics", "trained").out.splitlines())


def test_a_job_of_which_nothing_was_measured_says_so(served: Synthq) -> None:
    job = submit_noop()
    ran = served("metrics", job.id)
    assert ran.code == 0
    assert f"nothing was measured of {job.id}: only sft and rl jobs are measured" in ran.out
    assert served("metrics", job.id, "--png", "x.png").code == 3
    assert not Path("x.png").exists()


def test_a_picture_of_the_curves(served: Synthq, measured: Job) -> None:
    pytest.importorskip("matplotlib")
    ran = served("metrics", "trained", "--png", "curves.png")
    assert (ran.code, ran.out) == (0, "")
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")


def test_following_prints_every_point_once_until_the_job_ends(served: Synthq, measured: Job) -> None:
    def goes_on() -> None:
        write(measured.id, "update", 60, loss=0.0)
        write(measured.id, "eval", 1, achievements=2.0)
        break_steps("enough")

    with meanwhile(goes_on):
        ran = served("metrics", "trained", "--follow", "--json")
    seen = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 100, ran.err
    places = [(point["scope"], point["index"]) for point in seen]
    assert sorted(places) == sorted([("eval", 0), ("eval", 1), *(("update", index) for index in range(61))])


def test_a_line_of_what_is_followed(served: Synthq, measured: Job) -> None:
    break_steps("enough")
    ran = served("metrics", "trained", "-f", "--scope", "eval")
    assert ran.code == 100
    (line,) = ran.out.splitlines()
    assert line.split()[1:] == ["eval", "0", "achievements", "1", "achievements/low", "0.5", "achievements/high", "1.5"]


def test_a_picture_of_what_goes_on_is_refused(served: Synthq) -> None:
    assert served("metrics", "--png", "x.png", "--follow").code == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "nan"), (0.0, "0"), (3.0, "3"), (1234.0, "1,234"), (0.000123456, "0.0001235"), (2.5e9, "2.500e+09")],
)
def test_numbers_in_a_few_letters(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("values", "curve"),
    [
        ([], ""),
        ([2.0], "▄"),
        ([1.0, 1.0], "▄▄"),
        ([0.0, None, 7.0], "▁·█"),
        ([float(i) for i in range(8)], "▁▂▃▄▅▆▇█"),
        ([None, None], "··"),
    ],
)
def test_curves_in_letters(values: list[float | None], curve: str) -> None:
    assert spark(values) == curve
