"""Specs of rl jobs: the followed project's own files, what is done in place of what they ask, and what cannot be."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from app import specs
from app.errors import SpecProblems
from app.specs import RlSpec
from app.specs.rl import BLANK, EVALUATION, TRAIN

ROOT = Path(__file__).resolve().parents[2]
FULL = ROOT / "configs" / "crafter_rl_vision_qwen3vl4b.toml"
SMALL = ROOT / "tests" / "artifacts" / "configs" / "rl.vision.small.toml"

SAID_FULL: dict[str, Any] = {
    "algorithm": {"type": "online", "method": "policy_gradient", "variety": "gspo"},
    "services": {"task_url": "https://YOUR-MODAL-TASK-APP.modal.run"},
    "compute": {"gpu_type": "H200", "gpu_count": 2},
    "topology": {
        "type": "single_node_split",
        "gpus_for_vllm": 1,
        "gpus_for_training": 1,
        "gpus_for_ref": 0,
        "tensor_parallel": 1,
    },
    "vllm": {"tensor_parallel_size": 1, "max_model_len": 4096, "limit_mm_per_prompt": {"image": 1}},
    "reference": {"placement": "none"},
    "model": {
        "base": "Qwen/Qwen3-VL-4B-Instruct",
        "trainer_mode": "lora",
        "label": "crafter-rl-vision-qwen3vl4b",
        "supports_vision": True,
    },
    "lora": {"r": 16, "alpha": 32, "dropout": 0.05, "target_modules": ["all-linear"]},
    "rollout": {
        "env_name": "crafter",
        "max_turns": 10,
        "episodes_per_batch": 2,
        "policy_name": "crafter-react",
        "max_concurrent_rollouts": 4,
        "batches_per_step": 2,
        "ops": ["agent", "env"],
        "task_app_origin_rewards_only": True,
        "env_config": {
            "difficulty": "easy",
            "step_rewards": {
                "enabled": True,
                "mode": "decision_stepwise",
                "strategy": "consistent",
                "indicator_lambda": 1.0,
                "step_beta": 0.0,
            },
        },
        "policy_config": {
            "use_vision": True,
            "image_only_mode": True,
            "temperature": 0.6,
            "top_p": 0.95,
            "max_tokens": 512,
            "max_llm_calls": 10,
        },
    },
    "evaluation": {"instances": 8, "every_n_iters": 5, "seeds": [0, 1, 2, 3, 4, 5, 6, 7]},
    "training": {
        "num_epochs": 1,
        "iterations_per_epoch": 3,
        "gradient_accumulation_steps": 2,
        "max_accumulated_minibatch": 1,
        "max_turns": 10,
        "batch_size": 2,
        "group_size": 2,
        "learning_rate": 5e-5,
        "log_interval": 1,
        "weight_sync_interval": 1,
        "event_rewards_kind": "unique",
        "async_semaphore_max": 2,
        "step_rewards_enabled": True,
        "step_rewards_mode": "decision_stepwise",
        "step_rewards_indicator_lambda": 1.0,
        "step_rewards_beta": 0.0,
        "step_rewards_strategy": "consistent",
        "max_images_per_message": 1,
        "supports_vision": True,
        "weight_sync": {"enable": True, "targets": ["policy"], "mode": "direct", "direct": True, "verify_every_k": 0},
    },
    "judge": {"options": {"timeout_s": 30}},
    "tags": {
        "experiment": "crafter_rl_vision_qwen3vl4b",
        "task": "crafter_agent_vision",
        "model_size": "4b",
        "vision_enabled": True,
        "image_only": True,
    },
}
"""Every key and value of the followed project's file."""


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Tables on top of tables."""
    both = dict(one)
    for key, value in other.items():
        both[key] = merged(one[key], value) if isinstance(value, dict) and isinstance(one.get(key), dict) else value
    return both


SAID_SMALL: dict[str, Any] = merged(
    SAID_FULL,
    {
        "services": {"task_url": "${TASK_APP_URL}"},
        "vllm": {"max_model_len": 2048},
        "model": {"label": "test-rl-vision-small"},
        "lora": {"r": 8, "alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        "rollout": {
            "max_turns": 3,
            "episodes_per_batch": 1,
            "max_concurrent_rollouts": 1,
            "batches_per_step": 1,
            "policy_config": {"temperature": 0.8, "max_tokens": 256, "max_llm_calls": 3},
        },
        "evaluation": {"instances": 2, "every_n_iters": 1, "seeds": [0, 1]},
        "training": {
            "iterations_per_epoch": 1,
            "gradient_accumulation_steps": 1,
            "max_turns": 3,
            "batch_size": 1,
            "group_size": 1,
            "async_semaphore_max": 1,
        },
    },
) | {
    "judge": {"type": "env", "timeout_s": 15},
    "tags": {"experiment": "ci_test_rl_vision", "purpose": "integration_test"},
}


def loaded(path: Path) -> RlSpec:
    spec = specs.load(path, env={})
    assert isinstance(spec, RlSpec)
    return spec


def made(**tables: Any) -> RlSpec:
    spec = specs.build({"kind": "rl", **merged({"model": {"base": "/m"}}, tables)}, env={})
    assert isinstance(spec, RlSpec)
    return spec


def wrong(**tables: Any) -> dict[str, str]:
    with pytest.raises(SpecProblems) as caught:
        made(**tables)
    return {problem.key: problem.message for problem in caught.value.problems}


def cautions(spec: RlSpec) -> dict[str, str]:
    """What is warned of, by key."""
    return {text.partition(": ")[0]: text.partition(": ")[2] for text in specs.warnings(spec)}


# -- the followed project's files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "said"), [(FULL, SAID_FULL), (SMALL, SAID_SMALL)])
def test_the_files_carry_its_keys_and_values_unchanged(path: Path, said: dict[str, Any]) -> None:
    assert tomllib.loads(path.read_text()) == said


@pytest.mark.parametrize("path", [FULL, SMALL])
def test_the_files_load_and_come_back_from_json_and_from_toml(path: Path, tmp_path: Path) -> None:
    spec = loaded(path)
    assert specs.parse("rl", specs.resolved(spec)) == spec
    again = tmp_path / "again.toml"
    again.write_text(specs.to_toml(spec))
    assert loaded(again) == spec
    assert specs.sha256(loaded(again)) == specs.sha256(spec)


def test_each_key_of_the_full_file_acts() -> None:
    spec = loaded(FULL)
    assert spec.name == "crafter-rl-vision-qwen3vl4b"
    assert (spec.algorithm.estimator, spec.algorithm.loss) == ("gspo", "sequence")
    assert (spec.rollout.episodes, spec.groups, spec.iterations, spec.updates, spec.optimizer_steps) == (4, 2, 3, 1, 3)
    assert (spec.lora.r, spec.lora.alpha, spec.lora.layers[0], len(spec.lora.layers)) == (16, 32, "q_proj", 7)
    assert (spec.training.learning_rate, spec.training.batch_size) == (5e-5, 2)
    train, tried = spec.play(TRAIN), spec.play(EVALUATION)
    for how in (train, tried):
        assert (how.env, how.max_turns, how.max_llm_calls, how.temperature) == ("crafter", 10, 10, 0.6)
        assert (how.reward, how.policy_config.top_p, how.policy_config.max_tokens) == ("consistent", 0.95, 512)
        assert how.policy_config.image_only_mode
        assert how.policies == ("model:Qwen/Qwen3-VL-4B-Instruct",)
    assert (train.split, tried.split, tried.seeds, tried.episodes_per_seed) == ("train", "evaluation", tuple(range(8)), 1)
    assert [spec.evaluated(i) for i in range(4)] == [True, False, False, True]
    assert spec.estimate() == {
        "iterations": 3,
        "episodes": 12,
        "evaluation_episodes": 16,
        "turns": 280,
        "samples": 120,
        "optimizer_steps": 3,
    }


def test_what_is_done_in_place_of_what_the_file_asks_is_told_by_key() -> None:
    told = cautions(loaded(FULL))
    assert set(told) == {
        "evaluation.every_n_iters",
        "lora.target_modules",
        "lora.dropout",
        "rollout.policy_config.top_p",
        "services.task_url",
        "judge",
        "topology",
        "training.weight_sync",
        "rollout.env_config.difficulty",
        "training.async_semaphore_max",
    }
    assert "the language model" in told["lora.target_modules"]
    assert "leaves that out" in told["rollout.policy_config.top_p"]
    assert "published as a version" in told["training.weight_sync"]


def test_a_group_of_one_and_an_evaluation_that_is_never_due_are_told() -> None:
    told = cautions(loaded(SMALL))
    assert "nobody to compare with" in told["training.group_size"]
    assert "never reached in 1 iteration" in told["evaluation.every_n_iters"]
    valued = cautions(made(training={"group_size": 1}, algorithm={"estimator": "gae"}))
    assert "training.group_size" not in valued  # a state's value is there to compare with
    plain = cautions(made(training={"iterations": 11}))
    assert not {"training.group_size", "evaluation.every_n_iters"} & set(plain)
    assert "evaluation.every_n_iters" in cautions(made(training={"iterations": 10}))


def test_the_address_of_a_task_app_is_asked_by_nobody_so_its_variable_may_be_unset() -> None:
    spec = loaded(SMALL)
    assert spec.services is not None
    assert spec.services.task_url == "${TASK_APP_URL}"
    assert wrong(model={"label": "${LABEL}"}).keys() == {"model.label"}


def test_the_newer_policy_table_of_that_project_is_read() -> None:
    spec = specs.build(
        {
            "kind": "rl",
            "policy": {
                "model_name": "/m",
                "trainer_mode": "lora",
                "label": "x",
                "max_tokens": 9,
                "temperature": 0.7,
                "top_p": 1.0,
            },
        },
        env={},
    )
    assert isinstance(spec, RlSpec)
    assert (spec.model.base, spec.rollout.temperature, spec.rollout.policy_config.max_tokens, spec.name) == ("/m", 0.7, 9, "x")


# -- what cannot be -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "key", "said"),
    [
        ({"model": {"trainer_mode": "full"}}, "model.trainer_mode", "train a new base with an sft job"),
        ({"model": {"source": "/n"}}, "model.source", "keep one"),
        ({"model": {"base": "gpt-4o"}}, "model.base", "is no model"),
        ({"model": {"base": "./m"}}, "model.base", "write the whole path"),
        ({"training": {"group_size": 3}}, "training.group_size", "64 episodes cannot be dealt into groups of 3"),
        ({"training": {"batch_size": 65}}, "training.batch_size", "more than an iteration has"),
        (
            {"training": {"gradient_accumulation_steps": 4, "updates_per_iteration": 3}},
            "training.updates_per_iteration",
            "which makes 2 of 64 episodes",
        ),
        ({"training": {"weight_sync_interval": 2}}, "training.weight_sync_interval", "every update is published"),
        (
            {"training": {"weight_sync": {"targets": ["policy", "judge"]}}},
            "training.weight_sync.targets",
            "only the policy is served",
        ),
        ({"training": {"event_rewards_kind": "absolute"}}, "training.event_rewards_kind", "counts once in an episode"),
        (
            {"training": {"max_turns": 9}, "rollout": {"max_turns": 8}},
            "training.max_turns",
            "another spelling of rollout.max_turns",
        ),
        ({"training": {"step_rewards_beta": 0.5}}, "training.step_rewards_beta", "nothing is added for time"),
        (
            {"training": {"staleness": 1}, "rollout": {"max_concurrent_rollouts": 1}},
            "training.staleness",
            "max_concurrent_rollouts = 2",
        ),
        ({"data": {"seeds": "0-99"}}, "evaluation.seeds", "seed 0 and 15 more is of training too"),
        ({"data": {"seed_start": 8}}, "evaluation.seeds", "seed 8 and 7 more is of training too"),
        ({"data": {"final_seeds": "10-20"}}, "data.final_seeds", "is of evaluation too"),
        ({"data": {"final_seeds": "10399-10500"}}, "data.final_seeds", "seed 10399 is of training too"),
        ({"data": {"seeds": "100-103"}}, "data.seeds", "4 seeds cannot be 8 groups"),
        ({"data": {"seed_start": 2**31 - 10}}, "data.seed_start", "the last one is 2147483647"),
        ({"data": {"episodes_per_iteration": 32}}, "data.episodes_per_iteration", "does not agree"),
        ({"evaluation": {"instances": 20}}, "evaluation.instances", "no whole number each; write 16"),
        ({"evaluation": {"blank_frames_every_n_iters": 15}}, "evaluation.blank_frames_every_n_iters", "write 20"),
        (
            {
                "evaluation": {"blank_frames_every_n_iters": 10},
                "rollout": {"policy_config": {"use_vision": False, "image_only_mode": False}},
            },
            "evaluation.blank_frames_every_n_iters",
            "no picture that could be black",
        ),
        ({"data": {"split": "x-blank", "evaluation_split": "x"}}, "data.split", "black pictures"),
        ({"rollout": {"temperature": 0.0}}, "rollout.temperature", "nothing to compare"),
        ({"rollout": {"engine": "vllm", "temperature": 3.0}}, "rollout.temperature", "is above 2"),
        ({"rollout": {"save_frames": "none"}}, "rollout.save_frames", "without the pictures"),
        ({"rollout": {"policy_config": {"provider": "openai"}}}, "rollout.policy_config.provider", "cannot be trained"),
        ({"rollout": {"policy_config": {"model": "x"}}}, "rollout.policy_config.model", "[model] says which"),
        ({"rollout": {"rubric_rewards_only": True}}, "rollout.rubric_rewards_only", "the only ones"),
        ({"judge": {"options": {"rubric_id": "x"}}}, "judge.options.rubric_id", "runs no judges"),
        ({"model": {"supports_vision": False}}, "model.supports_vision", "does not agree with rollout.policy_config.use_vision"),
        ({"vllm": {"limit_mm_per_prompt": {"image": 0}}}, "vllm.limit_mm_per_prompt.image", "is below the 1 picture"),
        ({"vllm": {"max_lora_rank": 8}}, "vllm.max_lora_rank", "below lora.r = 16"),
        ({"topology": {"tensor_parallel": 2}}, "topology.tensor_parallel", "vllm.tensor_parallel_size = 1"),
        ({"lora": {"target_modules": ["visual.qkv"]}}, "lora.target_modules", "vision tower"),
        ({"algorithm": {"variety": "ppo"}}, "algorithm.variety", '"grpo_turn"'),
        ({"algorithm": {"method": "ppo"}}, "algorithm.method", "algorithm.estimator says"),
        ({"gates": {"parity_warn": 0.2}}, "gates.parity_warn", "never warn"),
        ({"caps": {"max_usd": 5.0}}, "caps.max_usd", "give usd_per_hour"),
        ({"training": {"grup_size": 2}}, "training.grup_size", "group_size"),
    ],
)
def test_what_cannot_be_is_refused_under_the_key_that_was_written(tables: dict[str, Any], key: str, said: str) -> None:
    problems = wrong(**tables)
    assert list(problems) == [key]
    assert said in problems[key]


def test_nothing_to_train_is_refused_and_any_of_three_keys_says_what() -> None:
    with pytest.raises(SpecProblems, match="or give source or warmstart_from"):
        specs.build({"kind": "rl", "model": {}}, env={})
    for model in ({"base": "/m"}, {"source": "art_0123456789ab"}, {"warmstart_from": "job_x"}):
        spec = specs.build({"kind": "rl", "model": model}, env={})
        assert isinstance(spec, RlSpec)
        assert [spec.model.start] == list(model.values())
    assert made(model={"warmstart_from": "sft-run"}).label == "model:sft-run"


# -- what it comes to ------------------------------------------------------------------------------------------------------


def test_iterations_are_the_product_unless_they_are_told() -> None:
    assert made(training={"num_epochs": 2, "iterations_per_epoch": 7}).iterations == 14
    assert made(training={"num_epochs": 2, "iterations_per_epoch": 7, "iterations": 3}).iterations == 3


@pytest.mark.parametrize(
    ("training", "updates"),
    [
        ({}, 1),
        ({"gradient_accumulation_steps": 2}, 4),
        ({"updates_per_iteration": 3}, 3),
        ({"gradient_accumulation_steps": 3}, 3),
    ],
)
def test_batches_and_accumulation_say_how_many_steps_an_iteration_takes(training: dict[str, int], updates: int) -> None:
    spec = made(training=training | {"iterations": 2, "passes": 2})
    assert spec.updates == updates
    assert spec.optimizer_steps == 4 * updates


def test_no_seed_comes_twice_while_there_are_others() -> None:
    spec = made(data={"seeds": "100-119"}, training={"iterations": 5})
    seeds = [spec.seeds_of(i) for i in range(5)]
    assert all(len(set(mine)) == len(mine) == 8 and set(mine) <= set(range(100, 120)) for mine in seeds)
    assert not set(seeds[0]) & set(seeds[1]), "20 seeds are enough for two iterations of 8"
    assert not set(seeds[2]) & set(seeds[3])
    assert seeds[0] != seeds[2]
    assert len(set().union(*seeds)) == 20, "what one pass leaves out comes in another"
    assert spec.seeds_of(3) == seeds[3], "keyed, and not drawn"
    other = made(data={"seeds": "100-119"}, rollout={"sampling_seed": 1}, training={"iterations": 5})
    assert other.seeds_of(0) != seeds[0]


def test_an_evaluation_plays_as_many_episodes_as_it_says() -> None:
    few = made(evaluation={"seeds": "0-9", "instances": 3})
    assert (few.evaluation.played, few.evaluation.episodes_per_seed) == ((0, 1, 2), 1)
    more = made(evaluation={"seeds": "0-9", "instances": 20})
    assert (len(more.evaluation.played), more.evaluation.episodes_per_seed) == (10, 2)
    hotter = made(evaluation={"temperature": 0.0})
    assert (hotter.play(TRAIN).temperature, hotter.play(EVALUATION).temperature) == (1.0, 0.0)


def test_the_model_is_tried_at_the_end_whatever_the_spec_says() -> None:
    spec = made(training={"iterations": 7}, evaluation={"every_n_iters": 3, "at_start": False})
    assert [i for i in range(8) if spec.evaluated(i)] == [3, 6, 7]


def test_of_two_caps_the_nearer_one_holds() -> None:
    assert made().caps.hours is None
    assert made(caps={"max_hours": 3.0, "max_usd": 4.0, "usd_per_hour": 2.0}).caps.hours == 2.0
    assert made(caps={"max_hours": 1.0, "max_usd": 4.0, "usd_per_hour": 2.0}).caps.hours == 1.0


def test_another_environment_keeps_its_own_settings() -> None:
    spec = made(rollout={"env_name": "elsewhere", "env_config": {"anything": {"goes": 1}}})
    assert spec.play().env_settings() == {"anything": {"goes": 1}}
    assert "not built in" in cautions(spec)["rollout.env"]


def test_all_linear_is_explained_to_who_wrote_it_and_to_nobody_else() -> None:
    written = made(lora={"target_modules": ["all-linear"]})
    assert "the vision tower stays as it is" in cautions(written)["lora.target_modules"]
    assert "lora.target_modules" not in cautions(made())
    assert "lora.target_modules" not in cautions(made(lora={"target_modules": ["q_proj"]}))
    again = specs.parse("rl", specs.resolved(made()))
    assert isinstance(again, RlSpec)
    assert "lora.target_modules" not in cautions(again)


def test_a_try_with_black_pictures_goes_with_an_evaluation_that_sees() -> None:
    spec = made(training={"iterations": 12}, evaluation={"every_n_iters": 2, "blank_frames_every_n_iters": 4, "at_start": False})
    assert [i for i in range(13) if spec.blanked(i)] == [4, 8, 12]
    assert not any(made().blanked(i) for i in range(60)), "nobody asked for it"
    blind, tried = spec.play(BLANK), spec.play(EVALUATION)
    assert blind == tried.model_copy(update={"blank_frames": True, "split": "evaluation-blank"})
    plain = made(training={"iterations": 12}, evaluation={"every_n_iters": 2, "at_start": False})
    each = len(spec.evaluation.played)
    assert spec.estimate()["evaluation_episodes"] == plain.estimate()["evaluation_episodes"] + 3 * each
