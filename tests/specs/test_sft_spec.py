"""Specs of training from data: one meaning in both dialects of files, and a sentence for each way in which one can be wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from app import specs
from app.errors import SpecProblems
from app.specs.schema import property_at
from app.specs.sft import SftSpec
from app.specs.sft_compat import SEED_KEYS
from app.specs.training import LANGUAGE

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEAST = {"model": "/m", "data": "job_x"}


def made(tables: dict[str, Any], *overrides: str) -> SftSpec:
    spec = specs.build(tables, overrides=overrides, env={})
    assert isinstance(spec, SftSpec)
    return spec


def sft(**table: Any) -> SftSpec:
    return made({"sft": LEAST | table})


def problems(tables: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(SpecProblems) as caught:
        specs.build(tables, env={})
    return {problem.key: problem.message for problem in caught.value.problems}


def wrong(**table: Any) -> dict[str, str]:
    return problems({"sft": LEAST | table})


SEED_FILE = """
[algorithm]
type = "offline"
method = "supervised_finetune"
variety = "lora"
[job]
model = "Qwen/Qwen3-VL-8B"
data_path = "job_abc"
[compute]
gpu_type = "H200"
gpu_count = 2
nodes = 1
[data]
topology = {}
validation_path = "job_val"
[model_config]
supports_vision = true
max_images_per_message = 2
max_model_len = 4096
[training]
mode = "lora"
use_qlora = true
[training.lora]
r = 8
alpha = 16
dropout = 0.1
target_modules = ["q_proj", "v_proj"]
[training.validation]
enabled = true
evaluation_strategy = "steps"
metric_for_best_model = "val.loss"
greater_is_better = false
[hyperparameters]
n_epochs = 3
global_batch = 32
per_device_batch = 1
sequence_length = 1024
learning_rate = 5e-6
warmup_ratio = 0.1
weight_decay = 0.01
train_kind = "peft"
[hyperparameters.parallelism]
use_deepspeed = true
deepspeed_stage = 2
fsdp = false
bf16 = true
fp16 = false
activation_checkpointing = true
tensor_parallel_size = 1
evaluation_strategy = "steps"
eval_steps = 100
load_best_model_at_end = false
[tags]
task = "crafter"
"""


def test_a_file_of_the_followed_project_means_what_it_says() -> None:
    spec = made(tomllib.loads(SEED_FILE))
    table = spec.sft
    assert (table.model, table.data, table.mode) == ("Qwen/Qwen3-VL-8B", "job_abc", "qlora")
    assert (table.epochs, table.batch_size, table.gradient_accumulation_steps, table.global_batch) == (3, 1, 32, 32)
    assert (table.sequence_length, table.learning_rate, table.warmup_ratio, table.weight_decay) == (1024, 5e-6, 0.1, 0.01)
    assert (table.bf16, table.gradient_checkpointing) == (True, True)
    assert (table.supports_vision, table.max_images_per_message, table.max_model_len) == (True, 2, 4096)
    assert (table.validation.data, table.validation.eval_steps, table.validation.save_best) == ("job_val", 100, False)
    assert (spec.lora.r, spec.lora.alpha, spec.lora.dropout, spec.lora.layers) == (8, 16.0, 0.1, ("q_proj", "v_proj"))
    assert (spec.compute.gpu_type, spec.compute.gpu_count, table.tags) == ("H200", 2, {"task": "crafter"})
    assert specs.parse("sft", specs.resolved(spec)) == spec


def test_what_it_asks_of_several_gpus_and_cannot_have_is_told() -> None:
    told = list(made(tomllib.loads(SEED_FILE)).cautions())
    assert [sentence.partition(":")[0] for sentence in told] == [
        "sft.parallelism.use_deepspeed",
        "sft.parallelism.deepspeed_stage",
    ]


def test_an_editor_knows_every_other_spelling() -> None:
    whole = specs.schema("sft")
    for key in SEED_KEYS.aliases:
        assert property_at(whole, key)["deprecated"], key


def test_a_table_of_parallelism_says_nothing_that_is_not_looked_at() -> None:
    said = problems({"sft": LEAST, "hyperparameters": {"parallelism": {"fp16": True, "zero": 1}}})
    assert said["hyperparameters.parallelism.fp16"] == "true cannot be had: numbers of 16 bits are bfloat16 here (bf16 = true)"
    assert "no such key in [sft.parallelism]" in said["hyperparameters.parallelism.zero"]


def test_a_table_that_is_given_under_both_names_is_brought_together() -> None:
    tables = {"sft": LEAST | {"validation": {"fraction": 0.2}}, "training": {"validation": {"eval_steps": 7}}}
    assert made(tables).sft.validation.eval_steps == 7
    assert made(tables).sft.validation.fraction == 0.2
    tables["sft"]["validation"]["eval_steps"] = 8
    assert "keep one of the two" in problems(tables)["training.validation.eval_steps"]


@pytest.mark.parametrize(
    ("table", "mode"),
    [
        ({}, "lora"),
        ({"trainer_mode": "full"}, "full"),
        ({"variety": "fft"}, "full"),
        ({"train_kind": "fft"}, "full"),
        ({"train_kind": "peft"}, "lora"),
        ({"variety": "qlora"}, "qlora"),
        ({"use_qlora": True}, "qlora"),
        ({"trainer_mode": "lora", "use_qlora": True, "variety": "lora", "train_kind": "peft"}, "qlora"),
        ({"trainer_mode": "full", "use_qlora": False, "variety": "fft"}, "full"),
    ],
)
def test_the_words_for_what_is_trained_settle_it(table: dict[str, Any], mode: str) -> None:
    assert sft(**table).sft.mode == mode
    assert specs.resolved(sft(**table))["sft"]["trainer_mode"] == mode


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"trainer_mode": "full", "use_qlora": True}, "use_qlora"),
        ({"trainer_mode": "full", "train_kind": "peft"}, "train_kind"),
        ({"trainer_mode": "lora", "variety": "fft"}, "variety"),
        ({"variety": "fft", "train_kind": "peft"}, "train_kind"),
        ({"variety": "qlora", "use_qlora": False}, "use_qlora"),
    ],
)
def test_words_that_disagree_are_refused(table: dict[str, Any], key: str) -> None:
    assert "does not agree with trainer_mode" in wrong(**table)[f"sft.{key}"]


def test_sft_offline_says_nothing_of_what_is_trained() -> None:
    tables = {"job": LEAST, "training": {"mode": "sft_offline"}, "hyperparameters": {"train_kind": "fft"}}
    assert made(tables).sft.mode == "full"
    assert made({"job": LEAST, "training": {"mode": "full_finetune"}}).sft.mode == "full"


@pytest.mark.parametrize(
    ("table", "size", "steps"),
    [
        ({"global_batch": 32}, 4, 8),
        ({"global_batch": 6}, 3, 2),
        ({"global_batch": 32, "batch_size": 1}, 1, 32),
        ({"global_batch": 32, "gradient_accumulation_steps": 2}, 16, 2),
        ({"global_batch": 32, "batch_size": 8, "gradient_accumulation_steps": 4}, 8, 4),
    ],
)
def test_two_sizes_of_a_batch_give_the_third(table: dict[str, Any], size: int, steps: int) -> None:
    made = sft(**table).sft
    assert (made.batch_size, made.gradient_accumulation_steps) == (size, steps)


def test_sizes_of_a_batch_that_disagree_are_refused_with_all_three() -> None:
    said = wrong(global_batch=7, batch_size=2, gradient_accumulation_steps=3)["sft.global_batch"]
    assert said.startswith("7 is not batch_size x gradient_accumulation_steps = 2 x 3 = 6")


def test_steps_are_those_of_whole_epochs_or_fewer() -> None:
    assert sft(epochs=2, batch_size=4, gradient_accumulation_steps=2).sft.steps(17) == 6
    assert sft(epochs=2, batch_size=4, gradient_accumulation_steps=2, max_steps=5).sft.steps(17) == 5


@pytest.mark.parametrize("data", ["traces/train.jsonl", "train.jsonl", "/data/train.json", "./x", "train.jsonl.gz"])
def test_a_path_is_no_data_and_the_way_out_is_told(data: str) -> None:
    assert wrong(data=data)["sft.data"].endswith(
        f"the server reads no paths; submit with --data {data}, which sends the file to it"
    )


@pytest.mark.parametrize("data", ["job_abc", "art_0123456789ab", "crafter-best", "@last"])
def test_a_job_and_an_artifact_are_data(data: str) -> None:
    assert sft(data=data).sft.data == data


@pytest.mark.parametrize(
    ("model", "said"), [("./tiny", "is a path from somewhere"), ("~/tiny", "is a path from somewhere"), ("tiny", "is no model")]
)
def test_a_model_that_no_server_could_find_is_refused(model: str, said: str) -> None:
    assert said in wrong(model=model)["sft.model"]
    assert "policy_config" not in wrong(model=model)["sft.model"]


def test_something_to_train_is_needed() -> None:
    assert "is needed and not given" in problems({"sft": {"data": "job_x"}})["sft.model"]
    assert made({"sft": {"data": "job_x", "warmstart_from": "job_before"}}).sft.model is None


@pytest.mark.parametrize("name", ["visual.blocks.0.attn.qkv", "qkv", "attn.proj", "merger", "linear_fc1"])
def test_an_adapter_on_the_vision_tower_is_refused(name: str) -> None:
    said = problems({"sft": LEAST, "lora": {"target_modules": ["q_proj", name]}})["lora.target_modules"]
    assert f'"{name}" is in the vision tower, which engines serve without adapters' in said


def test_layers_are_those_of_the_language_model() -> None:
    assert made({"sft": LEAST}).lora.layers == LANGUAGE
    assert made({"sft": LEAST, "lora": {"target_modules": "all-linear"}}).lora.layers == LANGUAGE
    said = problems({"sft": LEAST, "lora": {"target_modules": ["q_prj"]}})["lora.target_modules"]
    assert "did you mean 'q_proj'?" in said
    assert (
        "has the others in it"
        in problems({"sft": LEAST, "lora": {"target_modules": ["all-linear", "q_proj"]}})["lora.target_modules"]
    )


def test_an_adapter_may_be_on_some_layers_of_the_depth() -> None:
    assert made({"sft": LEAST}).lora.layers_to_transform is None
    assert made({"sft": LEAST, "lora": {"layers_to_transform": [-1, 0]}}).lora.layers_to_transform == (-1, 0)
    said = problems({"sft": LEAST, "lora": {"layers_to_transform": [2, 2]}})
    assert "2 is there twice" in said["lora.layers_to_transform"]


def test_flags_about_pictures_must_agree() -> None:
    said = wrong(supports_vision=False, max_images_per_message=1)
    assert "make all vision flags agree" in said["sft.max_images_per_message"]
    assert "make all vision flags agree" in wrong(supports_vision=True, max_images_per_message=0)["sft.max_images_per_message"]


@pytest.mark.parametrize(
    ("validation", "key"),
    [
        ({"enabled": False, "patience": 3}, "patience"),
        ({"enabled": False, "eval_steps": 3}, "eval_steps"),
        ({"data": "job_v", "fraction": 0.1}, "fraction"),
        ({"data": "val.jsonl"}, "data"),
    ],
)
def test_keys_of_validation_that_nothing_would_read_are_refused(validation: dict[str, Any], key: str) -> None:
    assert list(wrong(validation=validation)) == [f"sft.validation.{key}"]


def test_a_length_beyond_the_model_is_refused() -> None:
    assert "more than max_model_len = 1024" in wrong(sequence_length=2048, max_model_len=1024)["sft.sequence_length"]


def test_a_filter_that_says_how_its_lines_shall_be_stays_a_filter() -> None:
    spec = specs.build({"filter": {}, "sft": {"deduplicate": True}}, env={})
    assert isinstance(spec, specs.FilterSpec)
    assert spec.filter.deduplicate


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({}, "LoRA of rank 16 of /m, 1 epoch of job_x, 16 samples a step"),
        (
            {"trainer_mode": "full", "epochs": 2, "max_steps": 9},
            "all weights of /m, 2 epochs of job_x, 16 samples a step, 9 steps at the most",
        ),
    ],
)
def test_the_headline_says_how_much_it_is(tables: dict[str, Any], said: str) -> None:
    assert sft(**tables).headline() == said


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"sft": LEAST | {"trainer_mode": "full"}, "lora": {"r": 4}}, "lora"),
        ({"sft": LEAST | {"trainer_mode": "full", "model": "Qwen/Qwen3-VL-4B-Instruct"}}, "sft.learning_rate"),
        ({"sft": LEAST | {"parallelism": {"fsdp": True}}}, "sft.parallelism.fsdp"),
        ({"sft": LEAST | {"validation": {"patience": 2, "save_best": False}}}, "sft.validation.save_best"),
    ],
)
def test_what_looks_like_a_mistake_is_told(tables: dict[str, Any], key: str) -> None:
    assert [sentence.partition(":")[0] for sentence in made(tables).cautions()] == [key]


def test_the_config_for_pictures_is_what_it_says_it_is() -> None:
    spec = specs.load(CONFIGS / "crafter_sft_vision_qwen3vl4b.toml", env={})
    assert isinstance(spec, SftSpec)
    table = spec.sft
    assert (table.mode, spec.lora.r, spec.lora.alpha, spec.lora.dropout) == ("qlora", 16, 32.0, 0.05)
    assert (table.learning_rate, table.batch_size, table.gradient_accumulation_steps) == (5e-5, 1, 16)
    assert (table.sequence_length, table.warmup_ratio, table.epochs) == (2048, 0.03, 2)
