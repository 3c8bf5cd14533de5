"""A comparison as one page that needs nothing else: tables, plots as SVG inside it, and how it was made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from cli.charts import comparison
from cli.compare import FIGURES, headline, interval, method, pair, shared, shares, sure, unlike

Json = dict[str, Any]

STYLE: Final = """
:root { color-scheme: light; --ink: #22262b; --faint: #6b727a; --line: #e6e8eb; --good: #00785a; --bad: #b54a00; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 1080px; margin: 2rem auto;
  padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p.about { color: var(--faint); margin-top: 0; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--line); }
td, th { padding: .3rem .9rem .3rem 0; white-space: nowrap; } td { border-bottom: 1px solid var(--line); }
td.more { color: var(--good); font-weight: 600; } td.less { color: var(--bad); font-weight: 600; }
ul.notes { padding-left: 1.1rem; } ul.notes li { margin: .2rem 0; }
svg { width: 100%; height: auto; display: block; }
code { font-size: .92em; } footer { color: var(--faint); font-size: .85rem; margin: 2.5rem 0; }
"""
_SHARES: Final = ("achievement", "gain in points", "share of the difference in %")
_NAMED: Final = re.compile(r'(\bid="|href="#|url\(#)')
"""Where an SVG names a part of itself."""


def made(found: Json) -> str:
    """The whole page, as HTML. Raises NotHere without matplotlib."""
    title = " and ".join(arm["label"] for arm in found["arms"]) if len(found["arms"]) == 2 else headline(found)
    plots = [_inline(svg, f"plot{place}-") for place, svg in enumerate(comparison.svgs(found))]
    parted = shared(found)
    own, theirs = plots[1 : -1 - len(parted)], plots[-1 - len(parted) : -1]
    made_how = f"{comparison.key(found)}. {found['method']['interval']}. Made by"
    notes = [*unlike(found), *found["notes"]]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">{escape(headline(found))}. {escape(method(found))}.</p>',
        f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>' if notes else "",
        *_section("Arms", _table(_heads("arm", "policy", "job"), _arms(found))),
        plots[0],
        *_section("Differences", _table([*_heads("difference"), "achievements by seed"], _differences(found))),
        *(_section("Achievements", *own, _table(_achievement_heads(found), _achievements(found))) if own else ()),
        *(part for each, plot in zip(parted, theirs, strict=True) for part in _parted(each, plot)),
        *_section("Turns and endings", plots[-1]),
        *_section("Played alike", _table(["condition", "value"], _conditions(found))),
        f"<footer>{escape(made_how)} <code>synthq compare</code>.</footer>",
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'


def _inline(svg: bytes, prefix: str) -> str:
    """An SVG as a part of a page: without what only a file of its own begins with, its names apart from those of other plots."""
    text = svg.decode()
    return _NAMED.sub(lambda found: f"{found[1]}{prefix}", text[text.index("<svg") :])


def _section(title: str, *parts: str) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", *parts]


def _table(heads: Sequence[str], rows: Iterable[Sequence[tuple[str, str]]]) -> str:
    """A table; a cell is its text and its class."""
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(_cell(text, kind) for text, kind in row)}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _cell(text: str, kind: str) -> str:
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _heads(*first: str) -> list[str]:
    return [*first, *(heading for _, heading, _, _ in FIGURES)]


def _plain(*texts: object) -> list[tuple[str, str]]:
    return [(str(text), "") for text in texts]


def _gain(value: Any, scale: float, form: str) -> tuple[str, str]:
    kind = ("", "more", "less")[sure(value)] if isinstance(value, dict) else ""
    return interval(value, scale, form, signed=True), kind


def _arms(found: Json) -> Iterable[Sequence[tuple[str, str]]]:
    for arm in found["arms"]:
        result = found["results"][arm["label"]]
        figures = [interval(result.get(key), scale, form) for key, _, scale, form in FIGURES]
        yield _plain(arm["label"], arm["policy"], arm["job"], *figures)


def _differences(found: Json) -> Iterable[Sequence[tuple[str, str]]]:
    for each in found["differences"]:
        seeds = each["seeds"]
        told = f"{seeds['more']} more, {seeds['same']} same, {seeds['fewer']} fewer"
        yield [*_plain(pair(each)), *(_gain(each.get(key), scale, form) for key, _, scale, form in FIGURES), (told, "")]


def _achievement_heads(found: Json) -> list[str]:
    return ["unlocked in % of episodes", *(arm["label"] for arm in found["arms"]), *(pair(each) for each in found["differences"])]


def _achievements(found: Json) -> Iterable[Sequence[tuple[str, str]]]:
    for name in found["achievements"]:
        rates = [found["results"][arm["label"]]["achievement_rates"][name]["mean"] for arm in found["arms"]]
        gains = [_gain(each["achievement_rates"][name], 100.0, ".1f") for each in found["differences"]]
        yield [*_plain(name.replace("_", " "), *(f"{100 * rate:.1f}" for rate in rates)), *gains]


def _parted(difference: Json, plot: str) -> list[str]:
    return _section(f"What makes {pair(difference)}", plot, _table(_SHARES, _shares(difference)))


def _shares(difference: Json) -> Iterable[Sequence[tuple[str, str]]]:
    for name, share in shares(difference):
        gain = _gain(difference["achievement_rates"][name], 100.0, ".1f")
        yield [*_plain(name.replace("_", " ")), gain, *_plain(interval(share, 100.0, ".0f"))]


def _conditions(found: Json) -> Iterable[Sequence[tuple[str, str]]]:
    for key, value in found["conditions"].items():
        yield _plain(key, "none" if value in (None, "") else value)
