"""--set and ${VAR}: what they put in, and the sentences when they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import specs
from app.errors import SpecProblems

TABLES = {"eval": {"seeds": "0-9", "policies": ["scripted", "random"]}}


def with_set(*flags: str, env: dict[str, str] | None = None) -> specs.EvalSpec:
    spec = specs.build(TABLES, overrides=flags, env=env or {})
    assert isinstance(spec, specs.EvalSpec)
    return spec


def refused(*flags: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SpecProblems) as caught:
        with_set(*flags, env=env)
    return [str(problem) for problem in caught.value.problems]


def test_a_value_is_read_as_toml_and_else_as_text() -> None:
    table = with_set("eval.seeds=0-4", "eval.max_turns=5", "eval.reward=native", "eval.temperature = 0.5", "name='x-1'").eval
    assert (table.seeds, table.max_turns, table.reward, table.temperature) == ((0, 1, 2, 3, 4), 5, "native", 0.5)
    assert with_set("eval.policies=['random']").eval.policies == ("random",)
    assert with_set("eval.policy_config={use_vision = false}").eval.policy_config.use_vision is False
    assert with_set('eval."env_config"."image_size"=9').eval.env_settings()["image_size"] == 9


def test_a_list_item_is_named_by_its_index() -> None:
    assert with_set("eval.policies.1=random", "eval.policies.0=elsewhere").eval.policies == ("elsewhere", "random")


def test_the_later_flag_wins_and_the_tables_given_stay_as_they_are() -> None:
    assert with_set("eval.max_turns=1", "eval.max_turns=2").eval.max_turns == 2
    assert TABLES == {"eval": {"seeds": "0-9", "policies": ["scripted", "random"]}}


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("eval.seeds", "--set 'eval.seeds' has no '='; write --set eval.seeds=0-9"),
        ("=3", "names no key"),
        ("eval..seeds=3", "names no key"),
        ("eval.=3", "names no key"),
        (".".join("a" * 5000) + "=1", "names no key"),
        ("eval.seeds.x=1", "eval.seeds is \"0-9\", which has nothing inside it"),
        ("eval.policies.7=random", "eval.policies is a list with item 0 to 1, and no '7'"),
        ("eval.policies.x=random", "and no 'x'"),
        ("eval.max_turn=1", "eval.max_turn: no such key; did you mean 'max_turns'? (from --set)"),
        ("seeds=1", "seeds: no such key in the top table; did you mean 'eval.seeds'? (from --set)"),
        ("eval.max_turns=ten", 'must be a whole number, not "ten" (from --set)'),
        ("eval.temperature=nan", "eval.temperature: must be a finite number, not nan (from --set)"),
        ("eval.env=1979-05-27", "not a date (from --set)"),
        ("name=5", 'name: must be text, not 5; write "5" with quotes (from --set)'),
    ],
)  # fmt: skip
def test_a_flag_that_cannot_be_right_is_one_problem(flag: str, said: str) -> None:
    [problem] = refused(flag)
    assert said in problem


def test_flags_and_file_are_told_together(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text("[eval]\nseeds = 1\nsedes = 2\n")
    with pytest.raises(SpecProblems) as caught:
        specs.load(file, overrides=["eval.max_turns=0", "nothing"], env={})
    assert [(p.key, p.line) for p in caught.value.problems] == [("eval.sedes", 3), ("", None), ("eval.max_turns", None)]


def put_in(text: str, env: dict[str, str]) -> str:
    spec = specs.build({"eval": {"seeds": 1, "env": text}}, env=env)
    assert isinstance(spec, specs.EvalSpec)
    return spec.eval.env


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${WHO}", "me"),
        ("a-${WHO}-${WHO}", "a-me-me"),
        ("${NOBODY:-you}", "you"),
        ("${WHO:-you}", "me"),
        ("${NOBODY:-a b:-c}", "a b:-c"),
        ("$${WHO}", "${WHO}"),
        ("$WHO", "$WHO"),
        ("${ODD}", "${WHO}"),
    ],
)
def test_a_variable_is_put_in_once(text: str, value: str) -> None:
    assert put_in(text, {"WHO": "me", "ODD": "${WHO}"}) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${WH0}", "${WH0} is not set; set it, or write ${WH0:-default}; did you mean 'WHO'?"),
        ("${OPENAI_API_KEY}", "looks like a secret"),
        ("${HF_TOKEN:-x}", "looks like a secret"),
        ("${MY_SECRET}", "looks like a secret"),
        ("${db_password}", "looks like a secret"),
        ("${A B}", "is no variable"),
        ("${}", "is no variable"),
        ("${WHO", "is no variable"),
    ],
)
def test_a_variable_that_cannot_be_put_in_is_one_problem(text: str, said: str) -> None:
    with pytest.raises(SpecProblems) as caught:
        put_in(
            text,
            {"WHO": "me", "OPENAI_API_KEY": "sk-very-secret", "MY_SECRET": "sk-very-secret", "db_password": "sk-very-secret"},
        )
    [problem] = caught.value.problems
    assert problem.key == "eval.env"
    assert said in problem.message
    assert "sk-very" not in str(caught.value)


@pytest.mark.parametrize("name", ["MONKEY", "KEYBOARD", "TOKENIZER", "SECRETARY"])
def test_a_name_that_only_contains_such_a_word_is_no_secret(name: str) -> None:
    assert put_in(f"${{{name}}}", {name: "x"}) == "x"


def test_variables_are_put_into_lists_seeds_and_flags() -> None:
    env = {"SEEDS": "0-2", "POLICY": "random"}
    tables: dict[str, Any] = {"eval": {"seeds": "${SEEDS}", "policies": ["${POLICY}"]}}
    spec = specs.build(tables, overrides=["eval.env_config.length=9", "name=${POLICY}"], env=env)
    assert isinstance(spec, specs.EvalSpec)
    assert (spec.eval.seeds, spec.eval.policies, spec.name) == ((0, 1, 2), ("random",), "random")
