"""Seeds in every spelling, and sentences for what is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.specs import format_seeds, parse_seeds


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-9", list(range(10))),
        ("0,3,7-9", [0, 3, 7, 8, 9]),
        (" 3 , 1 - 2 ", [1, 2, 3]),
        (5, [5]),
        ([2, 0, 2], [0, 2]),
        (["7-9", 3, "1"], [1, 3, 7, 8, 9]),
        ((4, 4), [4]),
        ("2147483647", [2**31 - 1]),
    ],
)
def test_every_spelling_is_read_sorted_and_each_seed_once(text: Any, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("9-0", "seeds '9-0' runs backwards; write 0-9"),
        ("", "no seeds"),
        ([], "no seeds"),
        ("1,,2", "nothing between two commas"),
        ("1,", "nothing between two commas"),
        ("a-b", "cannot be read"),
        ("-3", "cannot be read"),
        ("1.5", "cannot be read"),
        ("٣", "cannot be read"),
        (-1, "out of range"),
        (2**31, "out of range"),
        ("0-2147483648", "out of range"),
        ("9" * 400, "too large"),
        ("0-100000", "100,001 seeds"),
        (["0-99999", 100000], "more than 100,000"),
        (True, "are no seeds"),
        (1.0, "are no seeds"),
        (None, "are no seeds"),
        ({"a": 1}, "are no seeds"),
        ([[1]], "not another list"),
        ([True], "are no seeds"),
    ],
)
def test_what_is_no_seeds_is_refused_with_the_value(text: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        parse_seeds(text)


def test_the_most_seeds_are_taken() -> None:
    assert len(parse_seeds("0-99999")) == 100_000


@given(st.sets(st.integers(0, 2**31 - 1), min_size=1, max_size=50) | st.sets(st.integers(0, 30), min_size=1))
def test_formatted_seeds_read_back_as_the_same(seeds: set[int]) -> None:
    assert parse_seeds(format_seeds(seeds)) == sorted(seeds)


@given(st.text(alphabet="0123456789-, ab", max_size=12))
def test_any_text_gives_seeds_or_a_sentence(text: str) -> None:
    try:
        seeds = parse_seeds(text)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - both ways out are right; a third is not
    else:
        assert seeds
        assert seeds == sorted(set(seeds))
