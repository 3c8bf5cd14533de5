"""What arms are called, and what they are said to have been played under. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from app import specs
from app.compare.conditions import conditions
from app.compare.labels import LONGEST, Named, labels


def named(job: str, policy: str, name: str | None = None, iteration: int | None = None) -> Named:
    return Named(job=job, name=name, policy=policy, iteration=iteration)


@pytest.mark.parametrize(
    ("arms", "wanted"),
    [
        ([named("job_1", "random", "n"), named("job_1", "scripted", "n")], ["random", "scripted"]),
        ([named("job_1", "model:/models/tiny"), named("job_1", "openai:gpt-5")], ["tiny", "gpt-5"]),
        ([named("job_1", "random", "base"), named("job_2", "random", "tuned")], ["base", "tuned"]),
        ([named("job_123456789", "random"), named("job_223456789", "random")], ["job_1234", "job_2234"]),
        (
            [named("job_111", "random", "n"), named("job_222", "random", "n")],
            ["job_111", "job_222"],
        ),
        (
            [named("job_1", "random", "base"), named("job_1", "scripted", "base"), named("job_2", "random", "tuned")],
            ["base random", "base scripted", "tuned"],
        ),
        ([named("job_1", "model:/m", "rl", 0), named("job_1", "model:/m", "rl", 25)], ["rl@0", "rl@25"]),
        (
            [named("job_1", "model:/a/tiny", "n"), named("job_1", "model:/b/tiny", "n")],
            ["n tiny", "n tiny #2"],
        ),
    ],
)
def test_labels_are_as_short_as_they_can_be(arms: list[Named], wanted: list[str]) -> None:
    assert labels(arms) == wanted


def test_labels_are_never_alike_and_never_long() -> None:
    long = [named(f"job_{i:012}", "model:/" + "x" * 200, "y" * 80) for i in range(16)]
    long += [named("job_a", f"model:/{i}/" + "x" * 200, "y" * 80) for i in range(4)]
    found = labels(long)
    assert len(set(found)) == len(long)
    assert max(map(len, found)) <= LONGEST


def of(policy: str, **table: Any) -> dict[str, Any]:
    """The conditions of a policy of an eval."""
    spec = specs.build({"kind": "eval", "eval": {"seeds": "0-1", "policies": [policy], **table}})
    return conditions(specs.resolved(spec)["eval"], policy, ["1"])


def test_a_policy_without_a_model_meets_no_temperature_and_no_prompt() -> None:
    warm = of("model:/m", temperature=0.7, policy_config={"rules": "full"})
    assert (warm["temperature"], warm["policy_config.rules"]) == (0.7, "full")
    assert of("random") == of("random", temperature=0.7, policy_config={"rules": "full"}, reply_format="text")


def test_a_models_calls_end_its_turns_as_the_limit_of_turns_does() -> None:
    assert of("model:/m", max_turns=100, max_llm_calls=50)["max_turns"] == 50
    assert of("random", max_turns=100, max_llm_calls=50)["max_turns"] == 100


def test_rewards_are_no_condition_but_the_world_is() -> None:
    first = of("random", env_config={"length": 60, "image_size": 64})
    assert first == of("random", env_config={"length": 60, "image_size": 81, "step_rewards": {"enabled": True}})
    assert first != of("random", env_config={"length": 61})
    assert of("model:/m", env_config={"image_size": 64}) != of("model:/m", env_config={"image_size": 81})
