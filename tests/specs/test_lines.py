"""The line of every value, in TOML that is written to confuse a scanner."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.specs.base import Path
from app.specs.lines import index

NASTY = '''\
a = 1 # x = 2
"b c"."d" = """
x = 1
[no]
"""
[t] # a comment [no]
x.y.z = [ # c
  1,
  "two ] # not", # ]
  { k = 'v', "q" = [3,
   4] }, # "
]
s = \'\'\'
[[fake]]
\'\'\'
q = """a""\\""""
q5 = """""x"""""
l5 = \'\'\'\'\'x\'\'\'\'\'
[[arr]]
n = 1
[[arr]]
n = 2
[arr.sub]
m = 3
[[arr.inner]]
z = 1
[[arr.inner]]
z = 2
[ "quoted.key" . b ]
d = 1979-05-27T07:32:00Z
e = -1e10
"\\u0041" = true
"\\"" = 1
e1 = ""
e2 = """"""
e3 = []
e4 = {}
last = "no newline"'''

EXPECTED = {
    ("a",): 1,
    ("b c",): 2,
    ("b c", "d"): 2,
    ("t",): 6,
    ("t", "x", "y", "z"): 7,
    ("t", "x", "y", "z", 0): 8,
    ("t", "x", "y", "z", 1): 9,
    ("t", "x", "y", "z", 2, "k"): 10,
    ("t", "x", "y", "z", 2, "q", 1): 11,
    ("t", "s"): 13,
    ("t", "q"): 16,
    ("t", "q5"): 17,
    ("t", "l5"): 18,
    ("arr",): 19,
    ("arr", 0): 19,
    ("arr", 0, "n"): 20,
    ("arr", 1): 21,
    ("arr", 1, "n"): 22,
    ("arr", 1, "sub"): 23,
    ("arr", 1, "sub", "m"): 24,
    ("arr", 1, "inner", 0, "z"): 26,
    ("arr", 1, "inner", 1): 27,
    ("arr", 1, "inner", 1, "z"): 28,
    ("quoted.key", "b"): 29,
    ("quoted.key", "b", "d"): 30,
    ("quoted.key", "b", "e"): 31,
    ("quoted.key", "b", "A"): 32,
    ("quoted.key", "b", '"'): 33,
    ("quoted.key", "b", "e1"): 34,
    ("quoted.key", "b", "e2"): 35,
    ("quoted.key", "b", "e3"): 36,
    ("quoted.key", "b", "e4"): 37,
    ("quoted.key", "b", "last"): 38,
}


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every path in parsed TOML."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from paths(item, (*path, i))


@pytest.mark.parametrize("path", list(EXPECTED), ids=str)
def test_the_line_is_that_of_the_key(path: Path) -> None:
    assert index(NASTY)[path] == EXPECTED[path]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_path_that_tomllib_finds_has_a_line_and_no_other_has(newline: str) -> None:
    text = NASTY.replace("\n", newline)
    assert set(index(text)) == set(paths(tomllib.loads(text)))
    assert index(text) == index(NASTY)


KEYS = st.text(alphabet="ab-_1 .é\"'\\#[]=", max_size=4)
TEXTS = st.text(alphabet="ab\n\"'\\#[]{},=", max_size=8)
SCALARS = st.one_of(st.integers(-9, 9), st.booleans(), st.just(1.5), TEXTS)


def key(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> tuple[str, Any]:
    """A value as text, and nothing else to know: ``tomllib`` says what it means."""
    kind = draw(st.sampled_from(["scalar", "long", "list", "inline"] if depth else ["scalar", "long"]))
    if kind == "scalar":
        return json.dumps(draw(SCALARS)), None
    if kind == "long":
        body = draw(TEXTS)
        if draw(st.booleans()):
            return '"""' + body.replace("\\", "\\\\").replace('"', '\\"') + '"""', None
        return "'''" + body.replace("'", "") + "'''", None
    inner = [draw(values(depth=depth - 1))[0] for _ in range(draw(st.integers(0, 3)))]
    if kind == "list":
        gap = draw(st.sampled_from(["", "\n", " # ], [x] = 1\n"]))
        return "[" + "".join(f"{gap}{item}{gap}," for item in inner) + gap + "]", None
    return "{" + ", ".join(f"{key(f'k{i}')} = {item}" for i, item in enumerate(inner)) + "}", None


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[Path, int]]:
    """TOML, and the lines of its top keys, tables and their keys."""
    lines: dict[Path, int] = {}
    text = ""
    table: Path = ()
    for name in draw(st.lists(KEYS, unique=True, max_size=6)):
        text += draw(st.sampled_from(["", "\n", "# [c] = 1\n", "\r\n"]))
        line = text.count("\n") + 1
        style = draw(st.sampled_from(["pair", "dotted", "table", "tables"]))
        if style == "table":
            table = (name,)
            text += f"[ {key(name)} ]\n"
            lines[table] = line
        elif style == "tables":
            text += f"[[{key(name)}]]\n[[{key(name)}]]\n"
            lines |= {(name,): line, (name, 0): line, (name, 1): line + 1}
            table = (name, 1)
        else:
            path = (*table, name, "x y") if style == "dotted" else (*table, name)
            said = f"{key(name)} . 'x y'" if style == "dotted" else key(name)
            text += f"{said}={draw(values())[0]}\n"
            lines |= {path[:n]: line for n in range(len(table) + 1, len(path) + 1)}
    return text, lines


@given(documents())
def test_a_document_in_any_style_has_the_lines_it_was_written_with(document: tuple[str, dict[Path, int]]) -> None:
    text, lines = document
    found = index(text)
    assert set(found) == set(paths(tomllib.loads(text)))
    assert {path: found[path] for path in lines} == lines
