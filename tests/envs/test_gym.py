"""The Gymnasium face of every environment."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env

from workers.rollout.envs.crafter import Crafter
from workers.rollout.envs.gym import GymEnvironment


@pytest.mark.parametrize("name", ["crafter", "corridor"])
def test_it_passes_gymnasiums_own_check(name: str, other_package: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Not able to test alternative render modes.*")
        check_env(GymEnvironment(name))


def test_it_plays_the_environments_own_episode() -> None:
    face, ours = GymEnvironment("crafter", render_mode="rgb_array", length=5, image_size=63), Crafter(length=5, image_size=63)
    frame, info = face.reset(seed=11)
    ours.reset(11)
    assert np.array_equal(frame, ours.frame())
    assert info == {"inventory": ours.inventory(), "unlocked": {}}
    for step in range(5):
        frame, reward, terminated, truncated, info = face.step(np.int64(5))
        result = ours.step("do")
        assert np.array_equal(frame, ours.frame())
        assert np.array_equal(face.render(), frame)
        assert (reward, terminated, truncated, info["changed"]) == (result.reward, False, step == 4, result.changed)


def test_resets_without_a_seed_go_on_to_other_episodes_by_the_last_seed() -> None:
    def frames() -> list[bytes]:
        face = GymEnvironment("crafter")
        face.reset(seed=1)
        return [face.reset()[0].tobytes() for _ in range(3)]

    first = frames()
    assert len(set(first)) == 3
    assert frames() == first


def test_nothing_else_imports_gymnasium_nor_the_stock_package() -> None:
    probe = (
        "import sys, workers.rollout.envs.crafter, workers.transport.pixels; print(*{'gymnasium', 'crafter'} & {*sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", probe], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
