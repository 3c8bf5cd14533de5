"""The resolved spec, its sha256, its TOML, its cautions."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import specs
from app.specs.crafter import ACHIEVEMENTS
from app.specs.render import leaves

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))

SEEDS = st.sets(st.integers(0, 2**31 - 1) | st.integers(0, 20), min_size=1, max_size=8).map(specs.format_seeds)
WORDS = st.lists(st.text(alphabet="ab.-_/é\"'\\${} #\n", min_size=1, max_size=6), max_size=3)
REAL = st.floats(-1e6, 1e6, allow_nan=False)


def tables(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A table with some of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


STEP_REWARDS = tables(
    indicator_lambda=st.floats(0, 1000),
    weights=st.dictionaries(st.sampled_from(ACHIEVEMENTS), st.floats(-1000, 1000), max_size=3),
    k_limits=st.dictionaries(st.sampled_from(ACHIEVEMENTS), st.integers(0, 1000), max_size=3),
)
POLICY = tables(
    rules=st.sampled_from(["bare", "none", "short", "full"]),
    history=st.integers(0, 64),
    use_vision=st.booleans(),
    thinking_budget=st.integers(0, 131_072),
    top_p=st.floats(0.1, 1),
)
FREE = st.dictionaries(
    st.text(alphabet='ab .é"', max_size=4),
    st.recursive(
        st.integers(-(2**63), 2**63 - 1) | REAL | st.booleans() | st.text(alphabet="a${}\n", max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="ab .", max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)
EVAL = st.builds(
    lambda seeds, table: {"eval": {"seeds": seeds, **table}},
    SEEDS,
    tables(
        task_id=st.text(alphabet="ab.-_", min_size=1, max_size=80).filter(lambda text: text[0] in "ab"),
        policies=st.lists(st.sampled_from(["random", "scripted", "scripted:reactive"]), min_size=1, unique=True),
        max_turns=st.integers(1, 100_000),
        concurrency=st.integers(1, 1024),
        temperature=st.floats(0, 10) | st.integers(0, 10),
        reward=st.sampled_from(["native", "unlocked", "consistent", "per_achievement"]),
        policy_config=POLICY,
        env_config=tables(image_size=st.integers(9, 144), step_rewards=STEP_REWARDS),
    )
    | st.builds(lambda config: {"env": "elsewhere", "env_config": config}, FREE),
)
FILTER = st.builds(
    lambda table: {"filter": table},
    tables(jobs=WORDS, achievements=WORDS, seeds=SEEDS, min_return=REAL, top_share=st.floats(0.01, 1), limit=st.integers(1, 9)),
)


@given(EVAL | FILTER)
def test_a_resolved_spec_resolves_to_itself_through_json_and_through_toml(given_tables: dict[str, Any]) -> None:
    plain = json.loads(json.dumps(given_tables))
    kind = next(iter(plain))
    spec = specs.parse(kind, plain)
    whole = specs.resolved(spec)
    again = specs.parse(kind, json.loads(json.dumps(whole)))
    assert specs.resolved(again) == whole
    assert again == spec
    assert specs.sha256(again) == specs.sha256(spec)
    from_toml = specs.build(tomllib.loads(specs.to_toml(spec)), env={})
    assert specs.resolved(from_toml) == whole


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_config_loads_and_says_what_it_is_for(config: Path) -> None:
    spec = specs.load(config, env={})
    assert spec.kind in config.name.split("_")
    assert spec.name
    if spec.kind != "rl":  # its file says what the followed project's says, much of which is done otherwise, and told so
        assert specs.warnings(spec) == []
    comments = config.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in comments.splitlines())
    assert f"synthq submit {spec.kind} configs/{config.name}" in comments


def test_there_are_configs_of_every_kind() -> None:
    assert {specs.load(config, env={}).kind for config in CONFIGS} == set(specs.KINDS)


def test_every_default_is_written_out_in_the_order_of_the_tables() -> None:
    spec = specs.build({"eval": {"seeds": 1}}, env={})
    whole = specs.resolved(spec)
    assert list(whole) == ["kind", "schema_version", "name", "eval", "vllm"]
    assert list(whole["eval"]) == list(specs.EvalTable.model_fields)
    assert list(whole["eval"]["policy_config"]) == list(specs.PolicyConfig.model_fields)


def test_the_sha256_is_of_what_is_asked_for() -> None:
    def name(**table: Any) -> str:
        return specs.sha256(specs.build({"eval": {"seeds": "0-2", **table}}, env={}))

    same = name()
    assert same == name(seeds=[2, 1, 0]) == name(temperature=1) == name(env="crafter-classic", policies="scripted")
    assert same == specs.sha256(specs.build({"name": "x", "eval": {"seeds": "0-2"}}, env={}))
    assert len({same, name(seeds="0-3"), name(max_turns=9), name(policies="random"), name(policy_config={"history": 2})}) == 5


def test_the_sha256_is_the_same_in_every_process() -> None:
    spec = specs.load(CONFIGS[0], env={})
    program = f"from pathlib import Path; from app import specs; print(specs.sha256(specs.load(Path({str(CONFIGS[0])!r}))))"
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(CONFIGS[0].parents[1])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == specs.sha256(spec)


def test_a_spec_cannot_be_changed() -> None:
    spec = specs.build({"eval": {"seeds": 1}}, env={})
    assert isinstance(spec, specs.EvalSpec)
    with pytest.raises(ValueError, match="frozen"):
        spec.eval.max_turns = 3  # type: ignore[misc]


def test_where_each_value_came_from(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text("[eval]\nseeds = '0-1'\napp_id = 'crafter'\n[eval.policy_config]\ntemperature = 0.5\n")
    loaded = specs.read(file, overrides=["eval.max_turns=5", "eval.policy=random"], env={})
    origins = loaded.origins()
    assert {key: origin for key, origin in origins.items() if origin != "default"} == {
        "eval.seeds": f"{file}:2",
        "eval.env": f"{file}:3",
        "eval.temperature": f"{file}:5",
        "eval.max_turns": "--set",
        "eval.policies": "--set",
    }
    assert set(origins) == {".".join(map(str, path)) for path, _ in leaves(specs.resolved(loaded.spec))}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"env": "craftr"}, "did you mean 'crafter'?"),
        ({"policies": ["scriptd"]}, "did you mean 'scripted'?"),
        ({"temperature": 0.5}, "eval.temperature: only models read it, not scripted"),
        ({"policy_config": {"top_p": 0.9}}, "eval.policy_config.top_p: only models read it"),
        ({"policy_config": {"inference_url": "http://x"}}, "eval.policy_config.inference_url: only models read it"),
        ({"max_llm_calls": 10, "max_turns": 50}, "10 ends a model's episode before max_turns = 50"),
        ({"save_frames": "none"}, "keeps no pictures"),
        ({"env_config": {"upscale_to": 100}}, "no multiple of image_size = 64"),
        ({"env_config": {"upscale_to": 128}, "policy_config": {"use_vision": False}}, "nothing is upscaled"),
        ({"env_config": {"step_rewards": {"weights": {"wake_up": 2.0}}}}, 'only reward = "per_achievement" reads it'),
    ],
)
def test_what_looks_like_a_mistake_is_said(table: dict[str, Any], said: str) -> None:
    [caution] = specs.warnings(specs.build({"eval": {"seeds": 1, **table}}, env={}))
    assert said in caution
    assert caution.startswith("eval.")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"achievements": ["collect_wod"]}, "did you mean 'collect_wood'?"),
        ({"min_achievements": 23}, "Crafter has 22 achievements"),
        ({"outcomes_ok_only": False}, "teaches replies that could not be read"),
    ],
)
def test_what_looks_like_a_mistake_in_a_filter_is_said(table: dict[str, Any], said: str) -> None:
    [caution] = specs.warnings(specs.build({"filter": table}, env={}))
    assert said in caution
