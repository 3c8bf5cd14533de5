"""The verb `compare`: policies of jobs side by side on the same seeds, as tables, as a page, as a picture, or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import click
import httpx

from cli import complete, show
from cli.client import Client, Json
from cli.outputs import save

TIME: Final = httpx.Timeout(300.0, connect=5.0)
"""Ten thousand resamples of thousands of seeds take their time."""
FIGURES: Final[tuple[tuple[str, str, float, str], ...]] = (
    ("crafter_score", "crafter score %", 1.0, ".2f"),
    ("achievements", "achievements", 1.0, ".2f"),
    ("progress", "progress %", 100.0, ".1f"),
    ("return", "return", 1.0, ".2f"),
    ("turns", "turns", 1.0, ".1f"),
)
"""What is told of each arm: key, heading, scale and form."""
SURE: Final = "*"


@click.command()
@click.argument("arms", metavar="JOB...", nargs=-1, required=True, shell_complete=complete.jobs)
@click.option("--anyway", is_flag=True, help="Compare also what was not played alike.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write one page with plots.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw the plots into FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object.")
def compare(arms: tuple[str, ...], anyway: bool, html: Path | None, png: Path | None, as_json: bool) -> None:
    """Put jobs side by side: scores, achievements, and what differs for certain.

    Every policy of every JOB is an arm: an id, the start of one, a name or @last; JOB:POLICY is one policy of it, JOB an rl job's
    last evaluation, JOB@ITERATION an earlier one. Only seeds count that all arms have played whole. Each arm is compared with the
    first and with the one before it; differences have 95 % intervals, paired over the seeds. Arms that were not played alike
    (temperature, turns, episodes per seed, prompts) are refused, unless --anyway.
    """
    with Client(timeout=TIME) as client:
        found = client.get("/compare", arm=list(arms), anyway=anyway or None)
    if as_json:
        show.out_json(found)
    else:
        for line in told(found):
            show.out(line)
    for target, make in ((png, _png), (html, _page)):
        if target is not None:
            show.say(f"✓ wrote {target} ({show.size(save([make(found)], target))})")


def _png(found: Json) -> bytes:
    from cli.charts import comparison

    return comparison.png(found)


def _page(found: Json) -> bytes:
    from cli.charts import page

    return page.made(found).encode()


# -- as text ---------------------------------------------------------------------------------------------------------------


def told(found: Json) -> Iterator[str]:
    """The whole comparison as lines."""
    yield headline(found)
    yield ""
    yield from _results(found)
    yield ""
    yield from _differences(found)
    yield ""
    yield from _achievements(found)
    yield ""
    for each in shared(found):
        yield from _shares(each)
        yield ""
    yield from _outcomes(found)
    yield ""
    yield method(found)
    for line in (*unlike(found), *_unshared(found), *found["notes"]):
        yield f"{click.style('!', fg='yellow')} {show.clean(line)}"


def headline(found: Json) -> str:
    """``2 arms on 50 seeds, 50 and 50 episodes``."""
    episodes = [f"{result['episodes']:,}" for result in found["results"].values()]
    alike = f"{episodes[0]} episodes each" if len(set(episodes)) == 1 else f"{', '.join(episodes)} episodes"
    seeds = found["seeds"]["compared"]
    return f"{len(episodes)} arms on {seeds:,} seed{'s' * (seeds != 1)}, {alike}"


def method(found: Json) -> str:
    """How the intervals were made, in a line."""
    how = found["method"]
    return (
        f"[low, high]: {how['confidence']:.0%} intervals, {how['resamples']:,} paired resamples of seeds; "
        f"{SURE} a difference whose interval is without 0"
    )


def unlike(found: Json) -> list[str]:
    """What was not the same for all arms, a sentence each."""
    return [("differs, and may: " if each["fair"] else "not played alike: ") + each["sentence"] for each in found["different"]]


def interval(value: Any, scale: float = 1.0, form: str = ".2f", *, signed: bool = False) -> str:
    """``2.30 [1.10, 3.50]``; a difference has its sign, and a star when its interval is without 0;
    ``0`` where all seeds agree."""
    if not isinstance(value, dict):
        return "-"
    if signed and value["mean"] == value["low"] == value["high"] == 0:
        return "0"
    form = f"+{form}" if signed else form
    numbers = [value[key] for key in ("mean", "low", "high")]
    texts = ["" if number is None else format(round(number * scale, 6) + 0.0, form) for number in numbers]
    ends = f" [{texts[1]}, {texts[2]}]" if texts[1] and texts[2] else ""
    return f"{texts[0]}{ends}{SURE if signed and sure(value) else ''}"


def sure(value: Json) -> int:
    """1 for a difference that is above 0 for certain, -1 for one below, 0 for one that may be none."""
    if value["low"] is None or value["low"] <= 0 <= value["high"]:
        return 0
    return 1 if value["low"] > 0 else -1


def _coloured(value: Any, text: str) -> str:
    way = sure(value) if isinstance(value, dict) else 0
    return click.style(text, fg="green" if way > 0 else "red") if way else text


def _results(found: Json) -> list[str]:
    rows = []
    for arm in found["arms"]:
        result = found["results"][arm["label"]]
        figures = [interval(result.get(key), scale, form) for key, _, scale, form in FIGURES]
        rows.append([show.clean(arm["label"]), show.clean(arm["policy"]), arm["job"], *figures])
    return _aligned(["arm", "policy", "job", *(heading for _, heading, _, _ in FIGURES)], rows)


def _differences(found: Json) -> list[str]:
    rows = []
    for each in found["differences"]:
        figures = [_coloured(each.get(key), interval(each.get(key), scale, form, signed=True)) for key, _, scale, form in FIGURES]
        seeds = each["seeds"]
        rows.append([pair(each), *figures, f"{seeds['more']} more, {seeds['same']} same, {seeds['fewer']} fewer"])
    return _aligned(["difference", *(heading for _, heading, _, _ in FIGURES), "achievements by seed"], rows)


def pair(difference: Json) -> str:
    """``b - a``."""
    return f"{show.clean(difference['b'])} - {show.clean(difference['a'])}"


def _achievements(found: Json) -> list[str]:
    """Success by achievement: the arms, and the gain where there are two; of more, a star where one is not as the first."""
    labels = [arm["label"] for arm in found["arms"]]
    gains = {each["b"]: each["achievement_rates"] for each in found["differences"] if each["a"] == labels[0]}
    rows = []
    for name in found["achievements"]:
        cells = []
        for label in labels:
            rate, gain = found["results"][label]["achievement_rates"][name], gains.get(label, {}).get(name)
            star = SURE if len(labels) > 2 and gain and sure(gain) else ""
            cells.append(_coloured(gain if star else None, f"{100 * rate['mean']:.1f}{star}"))
        if len(labels) == 2:
            gain = gains[labels[1]][name]
            cells.append(_coloured(gain, interval(gain, 100.0, ".1f", signed=True)))
        rows.append([show.clean(name), *cells])
    last = ["gain"] if len(labels) == 2 else []
    heading = "unlocked in % of episodes" if len(labels) == 2 else f"unlocked in % of episodes ({SURE} not as the first)"
    return _aligned([heading, *labels, *last], rows)


def _steps(found: Json) -> list[Json]:
    """The differences of each arm from the one before it."""
    following = dict(pairwise(arm["label"] for arm in found["arms"]))
    return [each for each in found["differences"] if following.get(each["a"]) == each["b"]]


def shared(found: Json) -> list[Json]:
    """The differences in achievements that are shared out: of each arm from the one before it, where it is one for certain."""
    return [each for each in _steps(found) if each["gain_shares"]]


def _unshared(found: Json) -> list[str]:
    told = [pair(each) for each in _steps(found) if each.get("achievements") and not each["gain_shares"]]
    return [f"{each}: the difference in achievements may be nothing, so no shares of it are told" for each in told]


def shares(difference: Json) -> list[tuple[str, Json]]:
    """The achievements that make a difference, and what part of it, the largest first."""
    moved = {name: share for name, share in difference["gain_shares"].items() if share["mean"]}
    return sorted(moved.items(), key=lambda item: -item[1]["mean"])


def _shares(difference: Json) -> list[str]:
    whole = interval(difference["achievements"], signed=True)
    rows = [
        [
            show.clean(name),
            interval(difference["achievement_rates"][name], 100.0, ".1f", signed=True),
            interval(share, 100.0, ".0f"),
        ]
        for name, share in shares(difference)
    ]
    return _aligned([f"what makes {pair(difference)}, {whole} achievements", "gain in points", "share of it in %"], rows)


def _outcomes(found: Json) -> list[str]:
    """Turns by outcome and episodes by ending: a row for each arm."""
    results = {arm["label"]: found["results"][arm["label"]] for arm in found["arms"]}
    outcomes = sorted({name for result in results.values() for name in result["outcomes"]}, key=lambda name: (name != "ok", name))
    ended = sorted({name for result in results.values() for name in result["ended"]})
    rows = []
    for label, result in results.items():
        turns, episodes = sum(result["outcomes"].values()), result["episodes"]
        cells = [_share(result["outcomes"].get(name, 0), turns) for name in outcomes]
        cells += [_share(result["ended"].get(name, 0), episodes) for name in ended]
        rows.append([show.clean(label), f"{turns:,}", *cells])
    return _aligned(["turns by outcome", "turns", *outcomes, *(f"ended: {name}" for name in ended)], rows)


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %" if of and count else "0" if of else "-"


def _aligned(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    first, *rest = show.table([show.clean(header) for header in headers], rows)
    return [click.style(first, bold=True), *rest]
