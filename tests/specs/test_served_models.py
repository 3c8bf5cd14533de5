"""Models that synthq serves itself, in specs: how they are named, and what they leave no room for."""

from __future__ import annotations

from typing import Any

import pytest

from app import specs
from app.errors import SpecProblems
from app.plots import PLOTS
from app.plots.base import JobView
from app.plots.eval import policy_of


def built(table: dict[str, Any], **tables: Any) -> specs.EvalSpec:
    spec = specs.build({"eval": {"seeds": "0-9", **table}, **tables}, env={})
    assert isinstance(spec, specs.EvalSpec)
    return spec


def wrong(table: dict[str, Any], **tables: Any) -> list[str]:
    with pytest.raises(SpecProblems) as caught:
        built(table, **tables)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


@pytest.mark.parametrize(
    "table",
    [
        {"model": "/models/tiny"},
        {"policies": "model", "model": "/models/tiny"},
        {"policies": "model:/models/tiny"},
        {"policies": "crafter-react", "model": "/models/tiny"},
    ],
)
def test_a_model_without_an_endpoint_is_served_here(table: dict[str, Any]) -> None:
    spec = built(table)
    assert spec.eval.policies == spec.served == ("model:/models/tiny",)
    assert specs.parse("eval", specs.resolved(spec)) == spec


def test_a_model_at_an_endpoint_is_asked_there() -> None:
    spec = built({"model": "m", "policy_config": {"inference_url": "http://h/v1"}})
    assert spec.eval.policies == ("openai:m",)
    assert spec.served == ()


@pytest.mark.parametrize("ref", ["/a b/c", "Qwen/Qwen3-VL-4B-Instruct", "art_0123456789ab"])
def test_folders_hub_ids_and_artifacts_name_models(ref: str) -> None:
    assert built({"policies": ["random", f"model:{ref}"]}).served == (f"model:{ref}",)


@pytest.mark.parametrize("ref", ["gpt-4o", "a/b/c", "art_1", " ", "/a\0b", "~/m", "./m"])
def test_anything_else_names_none_and_is_told_so(ref: str) -> None:
    assert len(wrong({"policies": [f"model:{ref}"]})) == 1


def test_one_job_compares_bases_and_adapters_and_each_step_plays_one() -> None:
    spec = built({"policies": ["random", "model:/a", "model:/b"], "episodes_per_seed": 2, "episodes_in_flight": 4})
    resolved = specs.resolved(spec)
    steps = PLOTS["eval"].begin(JobView(spec=resolved, done_episodes=frozenset))

    seen = []
    for step in steps:
        labels = {policy_of(resolved, member) for _, _, member in step.payload["episodes"]}
        assert labels == {step.payload.get("policy", "random")}
        assert len(step.payload["episodes"]) <= 4
        seen += [tuple(episode) for episode in step.payload["episodes"]]
    assert sorted(seen) == [(0, seed, member) for seed in range(10) for member in range(6)]
    places = [step.payload.get("policy") for step in steps]
    assert places == sorted(places, key=(None, "model:/a", "model:/b").index), "a base is asked for once, not again and again"


@pytest.mark.parametrize(
    ("table", "tables", "said"),
    [
        (
            {},
            {"vllm": {"limit_mm_per_prompt": {"image": 0}}},
            "vllm.limit_mm_per_prompt.image: 0 is below the 1 picture of every prompt (use_vision); write 1",
        ),
        (
            {"policy_config": {"max_tokens": 512}},
            {"vllm": {"max_model_len": 512}},
            "vllm.max_model_len: 512 leaves no room for a prompt beside the 512 tokens of a reply (policy_config.max_tokens); "
            "raise it or lower the other",
        ),
        (
            {"policy_config": {"use_vision": False, "image_only_mode": True}},
            {},
            "eval.policy_config.image_only_mode: true needs use_vision = true: without the picture nothing is left to show",
        ),
        (
            {"task_app_url": "http://h"},
            {},
            'eval.policies.0: a task app cannot ask "model:/m", which is served inside this system; remove task_app_url',
        ),
        (
            {},
            {"vllm": {"use_cudagraph": True}},
            "vllm.use_cudagraph: enforce_eager says it, the other way round; write that (it is true)",
        ),
    ],
)
def test_what_leaves_no_room_is_refused(table: dict[str, Any], tables: dict[str, Any], said: str) -> None:
    assert wrong({"policies": ["model:/m"], **table}, **tables) == [said]


def test_a_temperature_that_vllm_does_not_take_is_refused_for_it_and_warned_of_where_it_may_serve() -> None:
    above = '2.5 is above 2, the most that the engine "vllm" takes'
    said = f'eval.temperature: {above}; lower it, or write engine = "transformers"'
    assert wrong({"model": "/m", "engine": "vllm", "temperature": 2.5}) == [said]
    warned = specs.warnings(built({"model": "/m", "temperature": 2.5}))
    assert warned == [f'eval.temperature: {above}; write eval.engine = "transformers", which takes it']
    for table in ({"engine": "vllm", "temperature": 2.0}, {"engine": "transformers", "temperature": 9.0}):
        assert not specs.warnings(built({"model": "/m", **table}))
    assert not specs.warnings(built({"model": "m", "policy_config": {"provider": "openai"}, "temperature": 2.5}))


def test_without_pictures_none_need_be_allowed() -> None:
    spec = built({"model": "/m", "policy_config": {"use_vision": False}}, vllm={"limit_mm_per_prompt": {"image": 0}})
    assert not specs.warnings(spec)


def test_keys_that_nobody_reads_earn_a_warning() -> None:
    assert any("vllm.max_loras" in said for said in specs.warnings(built({"policies": "random"}, vllm={"max_loras": 2})))
    said = specs.warnings(built({"model": "/m", "engine": "transformers"}, vllm={"tensor_parallel_size": 2}))
    assert said == ['vllm.tensor_parallel_size: the engine "transformers" does not read it']
    assert specs.warnings(built({"model": "/m", "temperature": 0.5, "policy_config": {"top_p": 0.9}})) == []
