"""JSON Schema takes what ``load`` takes, and the reference page tells every key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from app import specs
from app.errors import SpecProblems
from app.specs.reference import page
from app.specs.tree import fields

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))


def fits(kind: str, tables: dict[str, Any]) -> bool:
    return jsonschema_rs.validator_for(specs.schema(kind)).is_valid(tables)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_config_fits_as_written_and_resolved(config: Path) -> None:
    spec = specs.load(config, env={})
    assert fits(spec.kind, tomllib.loads(config.read_text()))
    assert fits(spec.kind, specs.resolved(spec))


@pytest.mark.parametrize("kind", list(specs.KINDS))
def test_the_schema_is_a_schema(kind: str) -> None:
    jsonschema_rs.meta.validate(specs.schema(kind))


@pytest.mark.parametrize(
    "table",
    [
        {"seeds": [1, "3-4"], "policies": "random"},
        {"seeds": 1, "app_id": "grpo-crafter-task-app", "ops": ["agent", "env"], "return_trace": True, "max_tokens": 5},
        {"seeds": 1, "policy_config": {"temperature": 0.5}, "env_config": {"difficulty": "normal"}},
        {"seeds": 1, "env_config": {"env_params": {"max_steps_per_episode": 5}, "step_rewards": {"strategy": "simple"}}},
        {"seeds": 1, "env": "elsewhere", "env_config": {"anything": {"goes": 1}}},
        {"seeds": 1, "env_name": "elsewhere", "env_config": {"anything": {"goes": 1}}},
    ],
)
def test_what_loads_fits(table: dict[str, Any]) -> None:
    specs.build({"eval": table}, env={})
    assert fits("eval", {"eval": table})


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"seeds": True},
        {"seeds": 1, "sedes": 1},
        {"seeds": 1, "max_turns": "10"},
        {"seeds": 1, "reward": "x"},
        {"seeds": 1, "env_config": {"imagesize": 3}},
        {"seeds": 1, "env_config": {"difficulty": "easy"}},
        {"seeds": 1, "env_config": {"env_params": {"other": 5}}},
        {"seeds": 1, "policy_config": {"history": 65}},
    ],
)
def test_what_does_not_load_does_not_fit(table: dict[str, Any]) -> None:
    with pytest.raises(SpecProblems):
        specs.build({"eval": table}, env={})
    assert not fits("eval", {"eval": table})


def test_the_reference_page_is_that_of_the_models() -> None:
    assert (ROOT / "docs" / "specs.md").read_text() == page(), "write it again: python -m app.specs.reference > docs/specs.md"


@pytest.mark.parametrize("kind", list(specs.KINDS))
def test_the_reference_page_tells_every_key_and_every_key_has_a_sentence(kind: str) -> None:
    text = page()
    for path, field in fields(specs.KINDS[kind]):
        assert field.description, path
        assert f"`{path[-1]}`" in text or f"[{path[-1]}]" in text or path == ("kind",)
    for compat in specs.KINDS[kind].compats:
        for key in [*compat.aliases, *compat.refused, *compat.settled]:
            assert f"`{key}`" in text
