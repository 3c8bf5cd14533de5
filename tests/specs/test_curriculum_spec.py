"""The table [curriculum] of an rl job: what it may say, and what is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from app import specs
from app.errors import SpecProblems
from app.specs import RlSpec
from app.specs.curriculum import CurriculumTable


def build(**table: Any) -> RlSpec:
    spec = specs.build({"kind": "rl", "model": {"base": "/m"}, "curriculum": table}, env={})
    assert isinstance(spec, RlSpec)
    return spec


def test_without_the_table_everything_begins_where_the_world_begins() -> None:
    plain = specs.build({"kind": "rl", "model": {"base": "/m"}}, env={})
    assert isinstance(plain, RlSpec)
    assert (plain.starts, plain.curriculum) == (0, CurriculumTable())


def test_a_resolved_spec_of_the_time_before_the_table_is_read() -> None:
    old = specs.resolved(build())
    del old["curriculum"]
    assert specs.parse("rl", old) == build()


def test_what_it_says_comes_back_from_the_resolved_spec() -> None:
    spec = build(job="teacher", share=0.5, before_end=[5, 30], back_over=40, policies="scripted", min_achievements=3)
    assert specs.parse("rl", specs.resolved(spec)) == spec
    assert spec.starts == spec.groups // 2
    assert spec.curriculum.policies == ("scripted",)


REFUSED = {
    "a share of nobody": ({"share": 0.5}, "curriculum.job", "is needed with share = 0.5: whose play is to be begun from?"),
    "more than all": ({"job": "t", "share": 1.5}, "curriculum.share", "must be 1 or less"),
    "the newest job": ({"job": "@last", "share": 0.5}, "curriculum.job", "names no job that has played"),
    "a path": ({"job": "a/b", "share": 0.5}, "curriculum.job", "names no job that has played"),
    "both ways": (
        {"job": "t", "share": 0.5, "turns": [1, 2], "before_end": [1, 2]},
        "curriculum.before_end",
        "and turns both say where groups begin; keep one",
    ),
    "backwards": (
        {"job": "t", "share": 0.5, "turns": [9, 3]},
        "curriculum.turns",
        "[9, 3] runs backwards; write [3, 9]",
    ),
    "the beginning": ({"job": "t", "share": 0.5, "turns": [0, 3]}, "curriculum.turns.0", "must be 1 or more"),
    "none of so few": ({"job": "t", "share": 0.05}, "curriculum.share", "0.05 of 8 groups of an iteration is none; write 0.12"),
    "no such key": ({"job": "t", "shares": 0.5}, "curriculum.shares", "did you mean"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_refused_with_its_key(what: str) -> None:
    table, key, sentence = REFUSED[what]
    with pytest.raises(SpecProblems) as caught:
        build(**table)
    told = {problem.key: problem.message for problem in caught.value.problems}
    assert sentence in told[key], told


def test_a_job_of_which_nothing_is_begun_earns_a_warning() -> None:
    warnings = specs.warnings(build(job="teacher"))
    assert 'curriculum.job: nothing begins in the play of "teacher" with share = 0' in warnings
