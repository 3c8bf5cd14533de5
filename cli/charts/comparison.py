"""A comparison as pictures: scores with intervals, success by achievement, gains, and what became of the turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from cli.charts import paper
from cli.compare import FIGURES, headline, interval, pair, shared, shares, sure

Json = dict[str, Any]

WIDTH: Final = 11.0
"""Inches of a picture."""
ROW: Final = 0.28
"""Inches of a line of a list."""
OUTCOMES: Final[Mapping[str, str]] = {
    "ok": "#9fc9b8",
    "no_tool_call": "#e69f00",
    "parse_error": "#d55e00",
    "truncated": "#cc79a7",
    "engine_error": "#4d4d4d",
}


def png(found: Json) -> bytes:
    """All of it on one sheet. Raises NotHere without matplotlib."""
    parts = _parts(found)

    def draw(figure: Any) -> None:
        figure.suptitle(headline(found), x=0.01, ha="left", fontsize=13, fontweight="bold")
        figure.supxlabel(key(found), x=0.01, ha="left", fontsize=8, color=paper.FAINT)
        inner = figure.subfigures(len(parts), 1, height_ratios=[height for height, _ in parts], squeeze=False)[:, 0]
        for part, (_, how) in zip(inner, parts, strict=True):
            how(part, found)

    return paper.drawn(draw, width=WIDTH, height=sum(height for height, _ in parts) + 0.7)


def key(found: Json) -> str:
    """What lines and colours mean."""
    how = found["method"]
    return (
        f"lines are {how['confidence']:.0%} intervals ({how['resamples']:,} resamples of seeds, the same for all arms); "
        "a gain is grey where it may be none"
    )


def svgs(found: Json) -> list[bytes]:
    """Each part as an SVG of its own, in order."""
    return [paper.drawn(partial(how, found=found), width=WIDTH, height=height, form="svg") for height, how in _parts(found)]


def _parts(found: Json) -> list[tuple[float, Any]]:
    """Height in inches, and what draws the part."""
    arms, pairs = len(found["arms"]), len(_shown(found))
    parts = [(0.8 + 0.3 * arms, _scores)]
    if found["achievements"]:
        parts.append((1.0 + ROW * len(found["achievements"]) + 0.3 * (pairs > 1), _achievements))
    parts += [(0.9 + ROW * len(shares(each)), partial(_shares, each)) for each in shared(found)]
    return [*parts, (0.75 + 0.3 * arms, _outcomes)]


# -- the arms' own figures -------------------------------------------------------------------------------------------------


def _scores(figure: Any, found: Json) -> None:
    labels = [arm["label"] for arm in found["arms"]]
    shown = [each for each in FIGURES if each[0] != "progress" and found["results"][labels[0]].get(each[0])]
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axis, (key, heading, scale, form) in zip(axes, shown, strict=True):
        for place, label in enumerate(labels):
            _dot(axis, found["results"][label][key], place, scale, paper.colour(place))
            mean = found["results"][label][key]["mean"] * scale
            axis.annotate(format(mean, form), (mean, place), (0, 7), textcoords="offset points", ha="center", fontsize=8.5)
        axis.set_title(heading)
        _lines(axis, labels)
        axis.margins(x=0.14)
        axis.xaxis.get_major_locator().set_params(nbins=5)


def _dot(axis: Any, value: Json, place: float, scale: float, colour: str, *, size: float = 6.5) -> None:
    if value["low"] is not None:
        ends = value["low"] * scale, value["high"] * scale
        axis.plot(ends, (place, place), color=colour, linewidth=2.2, alpha=0.45, solid_capstyle="round")
    axis.plot([value["mean"] * scale], [place], marker="o", markersize=size, color=colour, linestyle="none")


def _lines(axis: Any, labels: Sequence[str]) -> None:
    """A line for each label, the first on top."""
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.7)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)


# -- achievements ----------------------------------------------------------------------------------------------------------


def _shown(found: Json) -> list[Json]:
    """The differences whose gains are drawn: of each arm from the first, three at the most."""
    first = found["arms"][0]["label"]
    return [each for each in found["differences"] if each["a"] == first][:3]


def _achievements(figure: Any, found: Json) -> None:
    labels, pairs = [arm["label"] for arm in found["arms"]], _shown(found)
    rates = {label: found["results"][label]["achievement_rates"] for label in labels}
    names = sorted(found["achievements"], key=lambda name: -max(rates[label][name]["mean"] for label in labels))
    axes = figure.subplots(1, 1 + len(pairs), sharey=True, squeeze=False, width_ratios=[1.5] + [1.0] * len(pairs))[0]
    for place, label in enumerate(labels):
        values = [100 * rates[label][name]["mean"] for name in names]
        rows = [row + (place - (len(labels) - 1) / 2) * min(0.16, 0.5 / len(labels)) for row in range(len(names))]
        axes[0].plot(values, rows, "o", color=paper.colour(place), markersize=6, label=label, alpha=0.9)
    spans = [[100 * rates[label][name]["mean"] for label in labels] for name in names]
    axes[0].hlines(range(len(names)), [min(span) for span in spans], [max(span) for span in spans], color=paper.GRID, zorder=0)
    axes[0].set_title("unlocked in % of the episodes")
    axes[0].legend(loc="lower right", framealpha=0.9, frameon=True, edgecolor=paper.GRID)
    axes[0].set_xlim(-3, 103)
    for axis, each in zip(axes[1:], pairs, strict=True):
        for place, name in enumerate(names):
            gain = each["achievement_rates"][name]
            _dot(axis, gain, place, 100.0, (paper.EVEN, paper.GOOD, paper.BAD)[sure(gain)], size=4.5)
        axis.axvline(0, color=paper.FAINT, linewidth=0.9)
        axis.set_title(f"gain in points:\n{each['b']}\nless {each['a']}" if len(pairs) > 1 else f"gain in points: {pair(each)}")
    for axis in axes:
        _lines(axis, [name.replace("_", " ") for name in names])
        axis.grid(axis="y", visible=True)


def _shares(difference: Json, figure: Any, found: Json) -> None:
    """A bar for each achievement that makes a difference: its share of it, with its interval."""
    axis, parts = figure.subplots(), shares(difference)
    for place, (_, share) in enumerate(parts):
        fill = (paper.EVEN, paper.GOOD, paper.BAD)[sure(share)]
        axis.barh([place], [100 * share["mean"]], color=fill, height=0.6, alpha=0.55)
        axis.plot([100 * share["low"], 100 * share["high"]], (place, place), color=fill, linewidth=2.2, solid_capstyle="round")
        axis.annotate(
            f"{100 * share['mean']:.0f} %", (100 * max(share["high"], 0), place), (5, -3), textcoords="offset points", fontsize=8
        )
    axis.axvline(0, color=paper.FAINT, linewidth=0.9)
    whole = interval(difference["achievements"], signed=True)
    axis.set_title(f"share of each achievement in the difference, %: {pair(difference)}, {whole} achievements")
    _lines(axis, [name.replace("_", " ") for name, _ in parts])
    axis.margins(x=0.08)


# -- turns -----------------------------------------------------------------------------------------------------------------


def _outcomes(figure: Any, found: Json) -> None:
    labels = [arm["label"] for arm in found["arms"]]
    left, right = figure.subplots(1, 2, sharey=True)
    _stacked(left, found, "outcomes", OUTCOMES)
    left.set_title("turns by outcome, %")
    _stacked(right, found, "ended", {})
    right.set_title("episodes by how they ended, %")
    for axis in (left, right):
        _lines(axis, labels)
        axis.set_xlim(0, 100)
        axis.grid(visible=False)


def _stacked(axis: Any, found: Json, key: str, colours: Mapping[str, str]) -> None:
    results = [found["results"][arm["label"]][key] for arm in found["arms"]]
    names = [*(name for name in colours if any(name in each for each in results))]
    names += sorted({name for each in results for name in each} - set(names))
    starts = [0.0] * len(results)
    for place, name in enumerate(names):
        shares = [100 * each.get(name, 0) / max(1, sum(each.values())) for each in results]
        fill = colours.get(name, paper.colour(place + 4))
        axis.barh(range(len(results)), shares, left=starts, color=fill, height=0.55, label=name, edgecolor="white", alpha=0.85)
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, borderaxespad=0.2)
