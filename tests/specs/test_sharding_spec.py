"""How several GPUs hold a model: a key that is kept to, and keys of the followed project that are wishes."""

from __future__ import annotations

from typing import Any

import pytest

from app import specs
from app.errors import SpecProblems
from app.specs.rl import RlSpec
from app.specs.sft import SftSpec

RL: dict[str, Any] = {
    "kind": "rl",
    "model": {"base": "/m"},
    "rollout": {"episodes_per_batch": 8, "max_concurrent_rollouts": 8},
    "training": {"group_size": 4, "batch_size": 4},
    "evaluation": {"seeds": [900, 901]},
}


def sft(**table: Any) -> SftSpec:
    spec = specs.build({"sft": {"model": "/m", "data": "job_x"} | table}, env={})
    assert isinstance(spec, SftSpec)
    return spec


def rl(mode: str, sharding: str) -> RlSpec:
    tables = RL | {"model": {"base": "/m", "trainer_mode": mode}, "training": RL["training"] | {"sharding": sharding}}
    spec = specs.build(tables, env={})
    assert isinstance(spec, RlSpec)
    return spec


def told(spec: SftSpec) -> dict[str, str]:
    return {key: said for key, _, said in (sentence.partition(": ") for sentence in spec.cautions())}


def test_weights_are_not_dealt_out_unless_that_is_asked_for() -> None:
    assert sft().sft.sharding is None
    assert sft(sharding="fsdp").sft.sharding == rl("lora", "fsdp").training.sharding == "fsdp"


def test_it_comes_back_from_what_is_stored() -> None:
    for spec in (sft(sharding="fsdp"), sft(), rl("lora", "fsdp")):
        assert specs.parse(spec.kind, specs.resolved(spec)) == spec


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        ({"sharding": "fsdp", "trainer_mode": "qlora"}, "sft.sharding", "those of 4 bits (qlora) cannot; train lora with it"),
        (
            {"sharding": "fsdp", "parallelism": {"fsdp": False}},
            "sft.parallelism.fsdp",
            'false does not agree with sharding = "fsdp"',
        ),
        (
            {"sharding": "none", "parallelism": {"fsdp": True}},
            "sft.parallelism.fsdp",
            'true does not agree with sharding = "none"',
        ),
        ({"sharding": "zero3"}, "sft.sharding", "zero3"),
    ],
)
def test_what_cannot_be_is_refused(table: dict[str, Any], key: str, said: str) -> None:
    with pytest.raises(SpecProblems) as caught:
        sft(**table)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert said in problem.message


def test_rl_refuses_it_for_weights_of_4_bits_too() -> None:
    with pytest.raises(SpecProblems) as caught:
        rl("qlora", "fsdp")
    assert [problem.key for problem in caught.value.problems] == ["training.sharding"]


@pytest.mark.parametrize(
    ("table", "asks"),
    [
        ({}, None),
        ({"fsdp": True}, "fsdp"),
        ({"fsdp": False}, None),
        ({"use_deepspeed": True, "deepspeed_stage": 3}, "deepspeed_stage"),
        ({"deepspeed_stage": 3}, "deepspeed_stage"),
        ({"use_deepspeed": False, "deepspeed_stage": 3}, None),
        ({"use_deepspeed": True, "deepspeed_stage": 2}, None),
        ({"fsdp": False, "deepspeed_stage": 3}, None),
    ],
)
def test_keys_of_the_followed_project_ask_for_it(table: dict[str, Any], asks: str | None) -> None:
    assert sft(parallelism=table).sft.parallelism.asks_for_shards == asks


def test_what_is_done_in_their_place_is_told() -> None:
    by_fsdp = told(sft(parallelism={"fsdp": True, "tensor_parallel_size": 2}))
    assert "deals weights out (torch's FSDP)" in by_fsdp["sft.parallelism.fsdp"]
    assert 'with sft.sharding = "fsdp" a part of it' in by_fsdp["sft.parallelism.tensor_parallel_size"]
    by_stage = told(sft(parallelism={"use_deepspeed": True, "deepspeed_stage": 3}))
    assert list(by_stage) == ["sft.parallelism.deepspeed_stage"]
    assert by_stage["sft.parallelism.deepspeed_stage"].startswith("DeepSpeed is not used")
