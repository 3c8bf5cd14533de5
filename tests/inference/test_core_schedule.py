"""Prompts go through the model in groups that waste little."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from workers.inference.core.schedule import WASTE, admitted, groups

LENGTHS = st.lists(st.integers(1, 5000), max_size=64)


@given(lengths=LENGTHS, most=st.integers(1, 10_000))
def test_every_prompt_is_in_one_group_and_no_group_is_too_large(lengths, most):
    made = groups(lengths, most_tokens=most)
    assert sorted(place for group in made for place in group) == list(range(len(lengths)))
    for group in made:
        assert len(group) == 1 or len(group) * max(lengths[place] for place in group) <= most


@given(lengths=LENGTHS)
def test_a_prompt_that_joins_a_group_adds_little_padding(lengths):
    for group in groups(lengths, most_tokens=10**9):
        own = [lengths[place] for place in group]
        assert own == sorted(own)
        assert all(n * (longer - shorter) <= WASTE for n, (shorter, longer) in enumerate(itertools.pairwise(own), 1))


def test_prompts_of_one_length_go_together_and_others_apart():
    assert groups([40] * 4, most_tokens=4096) == [[0, 1, 2, 3]]
    assert groups([40, 2000, 41, 2001], most_tokens=4096) == [[0, 2], [1, 3]]
    assert groups([40] * 4, most_tokens=100) == [[0, 1], [2, 3]]
    assert groups([], most_tokens=100) == []


def test_as_many_begin_as_there_are_rows_and_tokens_for_and_one_at_least():
    assert admitted([100] * 8, rows=3, most_tokens=4096) == 3
    assert admitted([100] * 8, rows=8, most_tokens=450) == 4
    assert admitted([9000, 1], rows=8, most_tokens=450) == 1
    assert admitted([], rows=8, most_tokens=450) == 0
