"""JSON is read as its standard has it, and what is not is told in words that go on from the name of what holds it."""

from __future__ import annotations

import pytest

from app import strict_json
from app.strict_json import NotStrict


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, -0.0, null, true, "\\u00e9"], "b": {"a": 1}}', {"a": [1, 2.5, -0.0, None, True, "é"], "b": {"a": 1}}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": "é"}'.encode("utf-16"), {"a": "é"}),
        ('"\\ud800"', "\ud800"),
        (" 7 ", 7),
    ],
)
def test_what_the_standard_allows_is_read(text: str | bytes, value: object) -> None:
    assert strict_json.read(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "gives the key 'c' twice in one object; keep one"),
        ('{"a": 1, "\\u0061": 2}', "gives the key 'a' twice in one object; keep one"),
        ('{"' + "k" * 100 + '": 1, "' + "k" * 100 + '": 2}', f"gives the key '{'k' * 60}' twice in one object; keep one"),
        ("[1, NaN]", "holds NaN, which is no number of JSON"),
        ("Infinity", "holds Infinity, which is no number of JSON"),
        (b'{"a": -Infinity}', "holds -Infinity, which is no number of JSON"),
        ("[" * 100_000, "is nested too deep to be read"),
    ],
)
def test_what_pythons_own_parser_would_take_or_breaks_at_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(NotStrict) as caught:
        strict_json.read(text)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("{'a': 1}", "Expecting property name"),
        ("[1,]", "Expecting value|Illegal trailing comma"),
        ("1 2", "Extra data"),
        ("1" * 5_000, "integer string conversion"),
        (b"\xff\xff{", "codec can't decode"),
    ],
)
def test_what_is_no_json_is_a_value_error(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        strict_json.read(text)
