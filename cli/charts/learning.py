"""The course of an rl job on one sheet: what it came to on seeds that it never learns from, how it got there, and what that took.

Everything stands over the number of updates: evaluations after so many, and what was played and done for the next one. What is
not here, `--scope` draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cli.charts import paper
from cli.charts.curves import HIGH, LOW, band, curve

Column = Sequence[tuple[int, float | None]]
Columns = Mapping[str, Mapping[str, Column]]
"""(index, value) by scope and name."""

EVAL, UPDATE = "eval", "update"
COLUMNS: Final = 3
PANEL_INCHES: Final = (4.0, 2.35)
LEAST: Final = 1e-7
"""Below it a distance is rounding: it is not drawn."""
PHASES: Final = ("load", "collect", "check", "score", "value", "train", "save", "publish")


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of a panel."""

    scope: str
    name: str
    label: str = ""
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves that share an axis."""

    title: str
    lines: tuple[Line, ...]
    log: bool = False


@dataclass(frozen=True, slots=True)
class Stack:
    """Parts of a whole, upon one another, with a name for each."""

    title: str
    scope: str
    parts: tuple[tuple[str, str], ...]
    """Metric and what it is called; those that begin with a metric's name and a slash are all taken where it ends with one."""


def _tried(name: str, title: str, *, scale: float = 1.0, played: str = "") -> Panel:
    lines = [Line(EVAL, name, "evaluation", scale), Line(UPDATE, played, "training", scale)]
    blank = Line(EVAL, f"blank/{name}", "evaluation with black pictures", scale)
    return Panel(title, tuple([*lines, blank] if played else lines[:1]))


PANELS: Final[tuple[Panel | Stack, ...]] = (
    _tried("achievements", "achievements in an episode", played="achievements"),
    _tried("crafter_score", "Crafter score, %"),
    _tried("return", "return of an episode (native reward)", played="return/native"),
    Panel("reward of an episode, as it is learnt from", (Line(EVAL, "reward", "evaluation"), Line(UPDATE, "return", "training"))),
    _tried("length", "length of an episode, game steps", played="length"),
    Panel(
        "replies that cannot be read, %",
        (Line(EVAL, "invalid_share", "evaluation", 100), Line(UPDATE, "invalid_share", "training", 100)),
    ),
    Panel("entropy, nats by token", (Line(UPDATE, "entropy"),)),
    Panel(
        "distance (KL), nats by token",
        (
            Line(UPDATE, "kl_update", "this update's policy from what played"),
            Line(UPDATE, "kl_sampler_k3", "trainer from engine, over its steps"),
            Line(UPDATE, "parity/kl", "trainer from engine, before them"),
            Line(UPDATE, "kl_base", "from the base"),
        ),
        log=True,
    ),
    Panel(
        "left aside, %",
        (
            Line(UPDATE, "clip_share", "tokens clipped", 100),
            Line(UPDATE, "masked_share", "replies masked", 100),
            Line(UPDATE, "flat_share", "groups with nothing to teach", 100),
        ),
    ),
    Panel("loss", (Line(UPDATE, "loss"),)),
    Panel("length of the gradient", (Line(UPDATE, "grad_norm"),)),
    Panel("learning rate", (Line(UPDATE, "learning_rate"),)),
    Stack("seconds of an update, by phase", UPDATE, tuple((f"seconds/{phase}", phase) for phase in PHASES)),
    Stack(
        "turns by updates since they were said",
        UPDATE,
        (("staleness/", ""), ("left_out/stale", "dropped: too old"), ("left_out/engine_error", "dropped: engine failed")),
    ),
    Panel(
        "memory of the trainer, GiB",
        (Line(UPDATE, "memory/peak_mib", "main", 1 / 1024), Line(UPDATE, "memory/gpu_peak_mib", "GPU", 1 / 1024)),
    ),
)


def fits(columns: Columns) -> bool:
    """Whether these are the metrics of an rl job."""
    return UPDATE in columns


def png(columns: Columns, *, title: str) -> bytes:
    """The sheet; panels of which nothing was measured are left out. Raises NotHere without matplotlib."""
    shown = [panel for panel in PANELS if any(_measured(columns, panel))]
    rows = -(-len(shown) // COLUMNS)
    width, height = PANEL_INCHES

    def draw(figure: Any) -> None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        figure.supxlabel(_key(columns), x=0.01, ha="left", fontsize=8, color=paper.FAINT)
        axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
        last = max(index for names in columns.values() for column in names.values() for index, _ in column)
        for axis, panel in zip(axes, shown, strict=False):
            axis.set_title(panel.title)
            _stack(axis, columns, panel) if isinstance(panel, Stack) else _lines(axis, columns, panel)
            axis.xaxis.get_major_locator().set_params(integer=True, nbins=6)
            axis.set_xlim(-0.03 * max(1, last), 1.03 * max(1, last))
            axis.set_xlabel("updates", fontsize=8, color=paper.FAINT)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)

    return paper.drawn(draw, width=COLUMNS * width, height=rows * height + 0.8)


def _key(columns: Columns) -> str:
    tries = len(next(iter(columns.get(EVAL, {}).values()), ()))
    told = f"{tries} evaluations, their bands 95 % intervals over seeds that are not learnt from; " if tries else ""
    return f"{told}training: means over an iteration's episodes, played after so many updates"


def _measured(columns: Columns, panel: Panel | Stack) -> Iterator[str]:
    """Names of a panel's metrics of which some value is a number, and of a stack's those that are not 0 throughout."""
    if isinstance(panel, Stack):
        yield from (name for name, _ in _parts(columns, panel))
        return
    for line in panel.lines:
        if any(value is not None for _, value in columns.get(line.scope, {}).get(line.name, ())):
            yield line.name


def _lines(axis: Any, columns: Columns, panel: Panel) -> None:
    drawn = 0
    for place, line in enumerate(panel.lines):
        names = columns.get(line.scope, {})
        if (column := names.get(line.name)) is None:
            continue
        colour = paper.colour(place)
        curve(axis, _scaled(column, line.scale), colour, label=line.label)
        if line.name + LOW in names and line.name + HIGH in names:
            band(axis, _scaled(names[line.name + LOW], line.scale), _scaled(names[line.name + HIGH], line.scale), colour)
        drawn += 1
    most = max((value or 0.0 for line in panel.lines for _, value in columns.get(line.scope, {}).get(line.name, ())), default=0.0)
    if panel.log and most > LEAST:
        axis.set_yscale("log", nonpositive="mask")
        axis.set_ylim(bottom=max(LEAST, axis.get_ylim()[0]))
    if drawn > 1:
        axis.legend(loc="best", fontsize=7, frameon=True, framealpha=0.75, edgecolor="none")


def _scaled(column: Column, scale: float) -> list[tuple[int, float | None]]:
    return [(index, None if value is None else scale * value) for index, value in column]


def _parts(columns: Columns, stack: Stack) -> list[tuple[str, str]]:
    """The parts of a stack that are not nothing throughout."""
    names = columns.get(stack.scope, {})
    found = [
        (name, label or f"{name.removeprefix(wanted)} updates")
        for wanted, label in stack.parts
        for name in ([wanted] if not wanted.endswith("/") else sorted(each for each in names if each.startswith(wanted)))
    ]
    return [(name, label) for name, label in found if any(value for _, value in names.get(name, ()))]


def _stack(axis: Any, columns: Columns, stack: Stack) -> None:
    """A bar for each update, in parts."""
    names, parts = columns[stack.scope], _parts(columns, stack)
    places = sorted({index for name, _ in parts for index, _ in names[name]})
    floor = dict.fromkeys(places, 0.0)
    for place, (name, label) in enumerate(parts):
        values = {index: value for index, value in names[name] if value is not None and math.isfinite(value)}
        heights = [values.get(index, 0.0) for index in places]
        axis.bar(
            places, heights, bottom=[floor[at] for at in places], color=paper.colour(place), width=0.85, label=label, alpha=0.85
        )
        for at, height in zip(places, heights, strict=True):
            floor[at] += height
    axis.legend(loc="upper left", fontsize=7, ncols=2)
    room = 1.12 + 0.14 * math.ceil(len(axis.get_legend().get_texts()) / 2)  # above the bars, for the lines of the legend
    axis.set_ylim(0, room * max(floor.values(), default=1.0) or 1.0)
