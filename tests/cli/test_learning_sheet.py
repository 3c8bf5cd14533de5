"""The picture of an rl job's course: which panels there are, what is in them, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from cli.charts import curves, learning, paper


def columns(**more: Any) -> dict[str, dict[str, list[tuple[int, float | None]]]]:
    """Three updates, two evaluations."""
    update = {"achievements": 1.5, "return": 1.0, "entropy": 0.5, "kl_update": 1e-3, "parity/kl": 1e-15, "grad_norm": None}
    update |= {"seconds/train": 4.0, "seconds/publish": 1.0, "seconds/load": 0.0, "staleness/0": 30.0, "staleness/1": 10.0} | more
    tried = {"achievements": 2.0, "achievements/low": 1.0, "achievements/high": 3.0}
    return {
        "eval": {name: [(0, value), (3, value + 1)] for name, value in tried.items()},
        "update": {name: [(at, value) for at in range(3)] for name, value in update.items()},
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, as matplotlib has them."""
    seen: list[Figure] = []

    def keep(draw: Any, **size: Any) -> bytes:
        figure = Figure(figsize=(size["width"], size["height"]))
        draw(figure)
        seen.append(figure)
        return b""

    monkeypatch.setattr(paper, "drawn", keep)
    return seen


def panels(figure: Figure) -> dict[str, Any]:
    return {axis.get_title(loc="left") or axis.get_title(): axis for axis in figure.axes if axis.get_visible()}


def test_what_was_measured_has_a_panel_and_nothing_else_has(drawn: list[Figure]) -> None:
    learning.png(columns(), title="x")
    assert list(panels(drawn[0])) == [
        "achievements in an episode",
        "reward of an episode, as it is learnt from",
        "entropy, nats by token",
        "distance (KL), nats by token",
        "seconds of an update, by phase",
        "turns by updates since they were said",
    ]


def test_evaluations_have_their_interval_as_a_band_and_stand_over_the_play_of_training(drawn: list[Figure]) -> None:
    learning.png(columns(), title="x")
    axis = panels(drawn[0])["achievements in an episode"]
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}
    assert lines == {"evaluation": ([0, 3], [2.0, 3.0]), "training": ([0, 1, 2], [1.5, 1.5, 1.5])}
    (band,) = axis.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices.tolist()} >= {(0.0, 1.0), (0.0, 3.0), (3.0, 2.0), (3.0, 4.0)}


def test_parts_stand_upon_one_another_and_those_that_are_nothing_are_left_out(drawn: list[Figure]) -> None:
    learning.png(columns(), title="x")
    axis = panels(drawn[0])["seconds of an update, by phase"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["train", "publish"]
    assert [(bar.get_y(), bar.get_height()) for bar in axis.patches[3:]] == [(4.0, 1.0)] * 3
    turns = panels(drawn[0])["turns by updates since they were said"]
    assert [text.get_text() for text in turns.get_legend().get_texts()] == ["0 updates", "1 updates"]


def test_distances_that_are_rounding_do_not_stretch_the_scale(drawn: list[Figure]) -> None:
    learning.png(columns(), title="x")
    axis = panels(drawn[0])["distance (KL), nats by token"]
    assert axis.get_yscale() == "log"
    assert axis.get_ylim()[0] >= learning.LEAST


def test_it_is_a_real_picture_and_the_same_each_time() -> None:
    assert learning.png(columns(), title="x") == learning.png(columns(), title="x")
    assert learning.png(columns(), title="x").startswith(b"\x89PNG")
    assert learning.fits(columns())
    assert not learning.fits({"train": {"loss": [(0, 1.0)]}})
    assert curves.png({"train": {"loss": [(0, 1.0)]}}, title="x").startswith(b"\x89PNG")
