"""Files of the project that synthq follows: read where they can be, refused with a reason where not, never half."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from app import specs
from app.errors import SpecProblems
from app.specs.tree import table_at


def made(**table: Any) -> specs.EvalSpec:
    spec = specs.build({"eval": {"seeds": 1, **table}}, env={})
    assert isinstance(spec, specs.EvalSpec)
    return spec


def problems(tables: dict[str, Any], *overrides: str) -> dict[str, str]:
    with pytest.raises(SpecProblems) as caught:
        specs.build(tables, overrides=overrides, env={})
    return {problem.key: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("key", ["env", "env_name", "app_id"])
@pytest.mark.parametrize("name", ["crafter", "crafter-classic", "grpo-crafter-task-app"])
def test_crafter_has_several_names(key: str, name: str) -> None:
    assert made(**{key: name}) == made()


def test_spellings_that_agree_stand_together_and_others_do_not() -> None:
    assert made(env="crafter", app_id="grpo-crafter-task-app", env_name="crafter-classic") == made()
    said = problems({"eval": {"seeds": 1, "env": "minecraft", "app_id": "crafter"}})
    assert said == {"eval.app_id": '"crafter" is another spelling of eval.env, which is "minecraft"; keep one of the two'}


def test_a_value_under_another_spelling_is_told_under_the_key_that_was_written() -> None:
    assert list(problems({"eval": {"seeds": 1, "env_name": 3}})) == ["eval.env_name"]
    tables = {"eval": {"seeds": 1, "env_config": {"env_params": {"max_steps_per_episode": 0}}}}
    assert list(problems(tables)) == ["eval.env_config.env_params.max_steps_per_episode"]


def test_the_old_cap_on_turns_is_max_turns() -> None:
    old = {"env_params": {"max_steps_per_episode": 50}}
    assert made(env_config=old) == made(max_turns=50) == made(env_config=old, max_turns=50)
    assert "max_turns" in problems({"eval": {"seeds": 1, "env_config": old, "max_turns": 20}}).popitem()[1]
    assert list(problems({"eval": {"seeds": 1, "env_config": {"env_params": {"other": 1}}}})) == ["eval.env_config.env_params"]


def test_a_flag_wins_over_another_spelling_in_the_file() -> None:
    tables = {"eval": {"seeds": 1, "env_config": {"env_params": {"max_steps_per_episode": 50}}, "policy": "random"}}
    spec = specs.build(tables, overrides=["eval.max_turns=5", 'eval.policies=["scripted"]'], env={})
    assert isinstance(spec, specs.EvalSpec)
    assert (spec.eval.max_turns, spec.eval.policies) == (5, ("scripted",))
    spec = specs.build({"eval": {"seeds": 1, "policies": ["random"]}}, overrides=["eval.policy=scripted"], env={})
    assert isinstance(spec, specs.EvalSpec)
    assert spec.eval.policies == ("scripted",)


def test_one_policy_may_be_written_as_one() -> None:
    assert made(policy="random") == made(policies=["random"]) == made(policy_name="random", policies="random")


def test_sampling_keys_are_taken_in_either_table() -> None:
    spec = made(policy_config={"temperature": 0.5, "max_llm_calls": 7}, top_p=0.9, max_tokens=64)
    assert (spec.eval.temperature, spec.eval.max_llm_calls) == (0.5, 7)
    assert (spec.eval.policy_config.top_p, spec.eval.policy_config.max_tokens) == (0.9, 64)


def test_a_spelling_whose_table_is_no_table_leaves_one_problem() -> None:
    assert list(problems({"eval": {"seeds": 1, "top_p": 0.5, "policy_config": 3}})) == ["eval.policy_config"]


def test_step_rewards_that_are_switched_on_are_the_reward() -> None:
    on = {"step_rewards": {"enabled": True, "strategy": "complex", "mode": "decision_stepwise", "step_beta": 0.0}}
    assert made(env_config=on).eval.reward == "per_achievement"
    assert made(env_config={"step_rewards": {"enabled": True}}).eval.reward == "consistent"
    assert made(env_config={"step_rewards": {"strategy": "simple"}}).eval.reward == "unlocked"
    odd = {"step_rewards": {"enabled": True, "strategy": "odd"}}
    assert list(problems({"eval": {"seeds": 1, "env_config": odd}})) == ["eval.env_config.step_rewards.strategy"]
    said = problems({"eval": {"seeds": 1, "reward": "native", "env_config": on}})
    assert list(said) == ["eval.reward"]
    assert 'strategy = "per_achievement"' in said["eval.reward"]


def test_keys_that_change_nothing_may_say_what_holds_and_nothing_else() -> None:
    same = made(ops=["agent", "env"], return_trace=True, trace_format="structured", env_config={"difficulty": "normal"})
    assert same == made()
    tables = {
        "eval": {"seeds": 1, "ops": ["agent"], "return_trace": 1, "trace_format": "x", "env_config": {"difficulty": "easy"}}
    }
    said = problems(tables)
    assert set(said) == {"eval.ops", "eval.return_trace", "eval.trace_format", "eval.env_config.difficulty"}
    assert said["eval.env_config.difficulty"] == '"easy" cannot be had: Crafter has no difficulty; remove the key'


def test_keys_of_crafter_mean_nothing_in_another_environment() -> None:
    spec = made(env="minecraft", env_config={"difficulty": "easy", "env_params": {"max_steps_per_episode": 3}})
    assert spec.eval.env_settings() == {"difficulty": "easy", "env_params": {"max_steps_per_episode": 3}}


REFUSED = [(kind, key) for kind, spec in specs.KINDS.items() for compat in spec.compats for key in compat.refused]


@pytest.mark.parametrize(("kind", "key"), REFUSED)
def test_a_refused_key_is_one_problem_with_its_reason(kind: str, key: str) -> None:
    least: dict[str, dict[str, Any]] = {"eval": {"seeds": 1}, "filter": {}, "sft": {"model": "/m", "data": "lines"}}
    of_rl = {"model": {"base": "/m"}, "rollout": {"max_turns": 1}}
    tables: dict[str, Any] = {kind: least[kind]} if kind in least else deepcopy(of_rl)
    here = tables
    *parents, last = key.split(".")
    for part in parents:
        here = here.setdefault(part, {})
    here[last] = "something"
    [(told, message)] = problems(tables).items()
    assert told == key
    assert message.endswith("no secrets; name the variable in api_key_env" if last == "api_key" else '(it is "something")')


@pytest.mark.parametrize("kind", list(specs.KINDS))
def test_another_spelling_leads_to_a_key_and_is_none(kind: str) -> None:
    spec = specs.KINDS[kind]

    def exists(key: str) -> bool:
        *parents, last = key.split(".")
        table = table_at(spec, tuple(parents))
        return table is not None and last in table.model_fields

    for compat in spec.compats:
        assert all(exists(new) for new in [*compat.aliases.values(), *compat.values])
        assert not any(exists(old) for old in [*compat.aliases, *compat.refused, *compat.settled])


def test_the_followed_projects_own_eval_settings_are_read() -> None:
    tables = {
        "eval": {
            "app_id": "grpo-crafter-task-app",
            "model": "gpt-4o-mini",
            "seeds": list(range(10)),
            "max_turns": 50,
            "concurrency": 2,
            "env_name": "crafter",
            "policy_name": "crafter-react",
            "trace_format": "full",
            "return_trace": True,
            "env_config": {"env_params": {"max_steps_per_episode": 50}},
            "policy_config": {
                "provider": "openai",
                "model": "gpt-4o-mini",
                "temperature": 0.6,
                "top_p": 0.95,
                "max_tokens": 512,
                "use_vision": True,
                "image_only_mode": False,
                "max_llm_calls": 50,
                "use_tools": True,
            },
        }
    }
    spec = specs.build(tables, env={})
    assert isinstance(spec, specs.EvalSpec)
    assert (spec.eval.policies, spec.eval.model) == (("openai:gpt-4o-mini",), "gpt-4o-mini")
    assert (spec.eval.max_turns, spec.eval.max_llm_calls, spec.eval.temperature) == (50, 50, 0.6)
    assert (spec.eval.policy_config.top_p, spec.eval.policy_config.endpoint) == (0.95, "https://api.openai.com/v1")
