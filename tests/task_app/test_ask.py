"""A body is one strict spec and a few limits, or a sentence for everything that is wrong with it."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_app_kit import flat, nested, read

from app import specs
from app.settings import Settings, get_settings
from app.specs.eval import EvalTable
from workers.rollout.task_app import ask
from workers.rollout.task_app.ask import BadBody
from workers.rollout.task_app.bodies import Flat, Nested


def refused(body: Any) -> list[tuple[str, str]]:
    with pytest.raises(BadBody) as caught:
        ask.read(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value.problems


def test_both_forms_become_the_same_spec() -> None:
    config = {"use_vision": True, "image_only_mode": True, "max_actions": 4}
    one = read(nested(7, config=config, env_config={"length": 300}, turns=1))
    other = read(flat(7, policy_config=config, env_config={"length": 300}))

    assert specs.resolved(one.spec)["eval"] | {"max_turns": 6} == specs.resolved(other.spec)["eval"]
    assert one.key == other.key


def test_what_is_not_said_is_as_with_submit() -> None:
    asked = read({"seed": 5})

    assert asked.spec == specs.build({"kind": "eval", "eval": {"seeds": 5}})
    assert asked.label == "scripted"


def test_a_model_is_asked_at_its_address_whatever_the_form() -> None:
    config = {"model": "m", "inference_url": "http://h/v1", "temperature": 0.5, "max_llm_calls": 3, "top_p": 0.9}
    one = read(nested(policy="crafter-react", config=config))
    other = read({"seed": 1, "model": "m", "inference_url": "http://h/v1", "temperature": 0.5, "policy_config": {"top_p": 0.9}})

    assert one.label == other.label == "openai:m"
    assert one.inference_url == other.inference_url == "http://h/v1"
    assert one.spec.eval.max_llm_calls == 3
    assert other.spec.eval.options_of("openai:m") == one.spec.eval.options_of("openai:m")


@pytest.mark.parametrize(
    ("said", "turns"),
    [
        ({"ops": ["agent", "env"]}, 10_000),
        ({"ops": ["agent", "env"] * 4}, 4),
        ({"ops": [{"type": "policy"}, {"op": "step"}, "model", "environment"]}, 2),
        ({"ops": ["agent", "env"] * 4, "max_turns": 3}, 3),
    ],
)
def test_ops_bound_the_turns(said: dict[str, Any], turns: int) -> None:
    assert read({"seed": 1, **said}).max_turns == turns


def test_the_settings_of_other_makers_bound_the_turns() -> None:
    assert read(nested(turns=1, env_config={"env_params": {"max_steps_per_episode": 9}})).max_turns == 9


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, "trace_run-1"),
        ({"trace_correlation_id": "trace_a"}, "trace_a"),
        ({"trace": "b"}, "b"),
        ({"trace": None}, "trace_run-1"),
        ({"inference_url": "http://h/v1?cid=c"}, "c"),
        ({"inference_url": "http://h/v1/chat/completions?api-version=3&trace_correlation_id=d"}, "d"),
        ({"inference_url": "http://h/v1?cid=e", "trace": "f"}, "f"),
    ],
)
def test_a_trace_has_the_name_that_the_caller_gave_it(config: dict[str, Any], found: str) -> None:
    asked = read(nested(policy="openai:m", config={"provider": "openai", **config} if "inference_url" not in config else config))

    assert asked.trace_correlation_id == found
    assert asked.spec.eval.policy_config.inference_url == config.get("inference_url"), "the address stays as it was given"


REFUSED: list[tuple[Any, str, str]] = [
    (b"", "", "the body is missing"),
    (b'{"seed": 3, "seed": 4}', "", "it gives the key 'seed' twice in one object"),
    (b"{", "", "the body is no JSON"),
    (b"\xff\xfe{}", "", "the body is no JSON"),
    (b"[" * 100_000, "", "nested too deep"),
    (b'{"a":' * 500 + b"1" + b"}" * 500, ".".join("a" * 16), "nested more than 16 levels deep"),
    (b'{"seed": NaN}', "", "NaN"),
    (b'{"seed": 1e999}', "seed", "finite"),
    (b'{"seed": ' + b"9" * 5000 + b"}", "", "no JSON"),
    (b'{"seed": 1, "policy_name": "a\\u0000"}', "policy_name", "NUL"),
    (b'{"seed": 1, "policy_name": "\\ud800"}', "policy_name", "surrogate"),
    ([], "", "must be a JSON object, not '[]'"),
    ({}, "seed", "is needed and not given"),
    (flat(-1), "seed", "out of range; a seed is 0 to 2147483647"),
    (flat(2**31), "seed", "out of range"),
    ({"seed": "1"}, "seed", "must be a whole number"),
    ({"seed": True}, "seed", "must be a whole number"),
    (flat(seeds="0-9"), "seeds", "write seed"),
    (flat(max_time_s=3), "max_time_s", "write safety.max_time_s"),
    (flat(max_turn=3), "max_turn", "did you mean 'max_turns'?"),
    (flat(recrod={}), "recrod", "did you mean 'record'?"),
    (flat(something=1), "something", "known: "),
    (flat(policy_config={"use_vison": True}), "policy_config.use_vison", "did you mean 'use_vision'?"),
    (flat(policy_config=3), "policy_config", "must be a table"),
    (flat(inference_url="test://dummy"), "inference_url", "must be an address that begins with http://"),
    ({"seed": 1, "inference_url": "http://h/v1"}, "model", "is needed and not given"),
    (flat(model="m"), "model", "asked by none of the policies"),
    (flat(policies=["random", "scripted"], policy_name=None), "policy_name", ""),
    (flat(max_turns=0), "max_turns", "1 or more"),
    (flat(record={"value": True}), "record.value", "no policy here has a value function"),
    (flat(record={"trajektories": True}), "record.trajektories", "did you mean 'trajectories'?"),
    (flat(return_trace=True, record={"return_trace": False}), "return_trace", "keep one"),
    (flat(safety={"max_ops": 1}), "safety.max_ops", "2 or more"),
    (flat(safety={"max_time_s": 0}), "safety.max_time_s", "more than 0"),
    (flat(ops=[]), "ops", "is not pairs"),
    (flat(ops=["agent"]), "ops", "is not pairs"),
    (flat(ops=["env", "agent"]), "ops.0", "out of turn"),
    (flat(ops=["agent", "fly"]), "ops.1", "must be 'agent' or 'env', not 'fly'"),
    (flat(ops=["agent", {"type": "env", "op": "env"}]), "ops.1", "one of the keys type and op"),
    (flat(mode="train"), "mode", 'must be "rl" or "eval"'),
    (flat(budget={"max_tokens": 5}), "budget", "can hold no budget"),
    (flat(run_id="a\nb"), "run_id", "without control characters"),
    (nested(seed=None), "env.seed", "is needed"),
    ({"env": {"seed": 1}}, "run_id", "is needed"),
    ({**nested(), "policy_config": {}}, "policy_config", "no such key"),
    (nested(env_config={"lenght": 5}), "env.config.lenght", "did you mean 'length'?"),
    (nested(env_config={"difficulty": "easy"}), "env.config.difficulty", "has no difficulty"),
    (nested(policy="scripted:omnisicent"), "policy.policy_name", "did you mean 'omniscient'?"),
    (nested(policy="openai:m"), "policy.policy_name", "needs policy_config.provider"),
    (nested(policy="model:/models/m"), "policy.policy_name", "serves none itself"),
    (nested(config={"image_only_mode": True, "use_vision": False}), "policy.config.image_only_mode", "needs use_vision"),
    (nested(config={"supports_vision": False}), "policy.config.supports_vision", ""),
    (nested(config={"api_key": "sk-secret"}), "policy.config.api_key", "holds no secrets"),
    (nested(config={"trace": 5}), "policy.config.trace", "trace correlation id"),
    (
        nested(policy="openai:m", config={"inference_url": "http://h?cid=x/v1/chat/completions"}),
        "policy.config.inference_url",
        "a path goes before",
    ),
    (
        nested(policy="openai:m", config={"inference_url": "http://h/v1", "api_key_env": "HOME"}),
        "policy.config.api_key_env",
        "SYNTHQ_TASK_APP_MODEL_KEYS",
    ),
    (nested(synthq={"eval": {"seeds": 2}}), "env.seed", "1 is not the seed of synthq.eval, 2"),
    (nested(synthq={"eval": {"seeds": "1-2"}}), "synthq.eval.seeds", "one seed, not 2"),
    (nested(synthq={"eval": {"seeds": 1, "policies": ["random", "scripted"]}}), "synthq.eval.policies", "not 2"),
    (nested(synthq={"eval": {"seeds": 1}, "membre": 1}), "synthq.membre", "did you mean 'member'?"),
]


@pytest.mark.parametrize(("body", "key", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_right_is_refused_under_its_own_key(body: Any, key: str, sentence: str) -> None:
    problems = refused(body)

    assert any(told == key and sentence in message for told, message in problems), problems
    assert "sk-secret" not in str(problems)


def test_a_body_may_name_the_variables_that_the_task_app_allows_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHQ_TASK_APP_MODEL_KEYS", "MY_MODEL, OTHER")
    get_settings.cache_clear()
    config = {"inference_url": "http://h/v1", "api_key_env": "MY_MODEL"}

    assert read(nested(policy="openai:m", config=config)).spec.eval.policy_config.key_variable == "MY_MODEL"
    refused(nested(policy="openai:m", config={**config, "api_key_env": "HOME"}))


def test_a_worker_of_synthq_has_its_whole_table_played() -> None:
    job = specs.build(
        {
            "kind": "eval",
            "eval": {
                "seeds": "0-9",
                "policies": ["random", "scripted"],
                "episodes_per_seed": 3,
                "policy_options": {"random": {"actions_per_turn": 3}, "scripted": {}},
                "reward": "native",
                "max_turns": 7,
                "task_app_url": "http://127.0.0.1:1",
            },
        }
    )
    table = specs.resolved(job)["eval"] | {"seeds": [4], "policies": ["random"]}
    asked = read(nested(4, synthq={"eval": table, "member": 2}))

    assert asked.spec.eval.options_of("random") == {"actions_per_turn": 3}
    assert (asked.key.seed, asked.key.member, asked.label, asked.spec.eval.reward) == (4, 2, "random", "native")
    assert asked.max_turns == 7


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*Nested.model_fields, *Flat.model_fields, *EvalTable.model_fields, "inference_url", "policy_name"])


@settings(max_examples=400, deadline=None)
@given(body=st.dictionaries(KEYS, JSON, max_size=6), seed=st.none() | st.integers(-1, 3), form=st.booleans())
def test_whatever_a_body_holds_it_is_an_ask_or_a_refusal(body: dict[str, Any], seed: int | None, form: bool) -> None:
    if seed is not None:
        body = {**body, "seed": seed} if form else {"run_id": "r", "env": {"seed": seed}, **body}
    with suppress(BadBody):
        assert ask.read(json.dumps(body).encode()).spec.episodes == 1


def test_the_bodies_of_the_page_can_be_asked() -> None:
    page = (Path(__file__).parents[2] / "docs" / "task-app.md").read_text()
    one, other = (read(json.loads(body)) for body in re.findall(r"```json\n(.*?)```", page, re.DOTALL))

    assert one.label == other.label == "openai:my-model"
    assert one.record.return_trace
    assert other.record.return_trace
    assert one.key == other.key
    named = set(re.findall(r"`(?:SYNTHQ_)?((?:TASK_APP|ENVIRONMENT)_[A-Z_]+)`", page))
    assert named == {name.upper() for name in Settings.model_fields if name.startswith(("task_app", "environment"))}
