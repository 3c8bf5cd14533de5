"""Names that a spec lists stand elsewhere too; here they are held equal, and the import rule is held."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import crafter as stock
import pytest

from app.specs import EvalTable, PolicyConfig
from app.specs.crafter import ACHIEVEMENTS, CrafterConfig
from app.specs.policies import POLICIES


def choices(table: Any, field: str) -> set[str]:
    return set(get_args(table.model_fields[field].annotation))


def test_the_achievements_are_stock_crafters() -> None:
    assert sorted(ACHIEVEMENTS) == sorted(stock.constants.achievements)


def test_the_environment_takes_the_settings_and_has_the_achievements() -> None:
    from workers.rollout import envs

    environment = envs.make("crafter", EvalTable(seeds="0").env_settings())
    assert set(environment.achievements) == set(ACHIEVEMENTS)


def test_the_environments_smallest_and_largest_frames_are_the_specs() -> None:
    from workers.rollout import envs

    for size in (9, 144):
        config = CrafterConfig(image_size=size, length=3)
        world = envs.make("crafter", config.settings())
        world.reset(0)
        assert world.frame().shape == (size, size, 3)


def test_policies_rewards_rules_and_reply_formats_are_those_there_are() -> None:
    from workers.rollout import policies
    from workers.rollout.actions import MAX_ACTIONS, REPLY_FORMATS
    from workers.rollout.prompts import RULES_LEVELS
    from workers.rollout.rewards import REWARDS

    assert set(POLICIES) == set(policies.POLICIES)
    assert choices(EvalTable, "reward") == set(REWARDS)
    assert choices(EvalTable, "reply_format") == set(REPLY_FORMATS)
    assert choices(PolicyConfig, "rules") == set(RULES_LEVELS)
    assert PolicyConfig(max_actions=MAX_ACTIONS).max_actions == MAX_ACTIONS
    with pytest.raises(ValueError, match="less than or equal"):
        PolicyConfig(max_actions=MAX_ACTIONS + 1)


def test_specs_import_pydantic_and_the_standard_library_only() -> None:
    program = (
        "import sys; before = set(sys.modules); import app.specs;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in run.stdout.split() if not name.startswith("_")}
    assert loaded <= {
        "app",
        "pydantic",
        "pydantic_core",
        "typing_extensions",
        "typing_inspection",
        "annotated_types",
    }
