"""The course of a job as a picture: a panel for each thing that was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cli.charts import paper

PANELS: Final = 3
"""Side by side."""
PANEL_INCHES: Final = (3.6, 2.1)
FEW: Final = 40
"""Up to so many points, each is marked; of more, a running mean is drawn over them."""
LOW, HIGH = "/low", "/high"
"""Names that end so are the interval of the name without it."""

Column = Sequence[tuple[int, float | None]]
Columns = Mapping[str, Mapping[str, Column]]
"""(index, value) by scope and name."""


def png(columns: Columns, *, title: str) -> bytes:
    """A picture of every column: a part for each scope, a panel for each name. Raises NotHere without matplotlib."""
    rows = [-(-len(_panels(names)) // PANELS) for names in columns.values()]
    width, height = PANEL_INCHES

    def draw(figure: Any) -> None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        parts = figure.subfigures(len(rows), 1, height_ratios=[count + 0.25 for count in rows], squeeze=False)[:, 0]
        for place, (part, (scope, names)) in enumerate(zip(parts, columns.items(), strict=True)):
            part.suptitle(scope, x=0.01, ha="left", fontsize=11, color=paper.FAINT)
            _scope(part, names, rows[place], paper.colour(place))

    return paper.drawn(draw, width=PANELS * width, height=sum(rows) * height + 0.35 * len(rows) + 0.5)


def _panels(names: Mapping[str, Column]) -> list[str]:
    """Names with a panel of their own: all but the ends of an interval."""
    ends = {name + end for name in names for end in (LOW, HIGH)}
    return [name for name in names if name not in ends]


def _scope(part: Any, names: Mapping[str, Column], rows: int, colour: str) -> None:
    axes = part.subplots(rows, PANELS, squeeze=False).flat
    shown = _panels(names)
    for axis, name in zip(axes, shown, strict=False):
        axis.set_title(name)
        curve(axis, names[name], colour)
        if name + LOW in names and name + HIGH in names:
            band(axis, names[name + LOW], names[name + HIGH], colour)
        axis.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    for axis in list(part.axes)[len(shown) :]:
        axis.set_visible(False)


def curve(axis: Any, column: Column, colour: str, *, label: str = "") -> None:
    """A line through every point, or where there are many through what they come to around each."""
    places = [index for index, _ in column]
    values = [math.nan if value is None else value for _, value in column]
    if len(column) <= FEW:
        axis.plot(places, values, color=colour, linewidth=1.6, marker="o", markersize=3.2, label=label)
        return
    axis.plot(places, values, color=colour, linewidth=0.7, alpha=0.3)
    axis.plot(places, running_mean(values), color=colour, linewidth=1.7, label=label)


def band(axis: Any, low: Column, high: Column, colour: str) -> None:
    """The interval around a line."""
    tops = dict(high)
    ends = [(index, value, tops[index]) for index, value in low if value is not None and tops.get(index) is not None]
    axis.fill_between(*zip(*ends, strict=True), color=colour, alpha=0.16, linewidth=0) if ends else None


def running_mean(values: Sequence[float]) -> list[float]:
    """Each value with those around it, a twentieth of all; what is no number counts for nothing."""
    reach = max(1, len(values) // 40)
    means = []
    for place in range(len(values)):
        near = [each for each in values[max(0, place - reach) : place + reach + 1] if not math.isnan(each)]
        means.append(math.fsum(near) / len(near) if near else math.nan)
    return means
