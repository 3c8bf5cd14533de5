"""Puts a package with policies and an environment of its own beside ours, as pip would."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from play_kit import dist_info

from workers.rollout import envs, policies


@pytest.fixture(scope="session")
def played_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the path in which that package is installed."""
    site = tmp_path_factory.mktemp("played-site")
    dist_info(site)
    sys.path.append(str(site))
    _look_again()
    yield site
    sys.path.remove(str(site))
    _look_again()


def _look_again() -> None:
    envs.registered.cache_clear()
    policies._registered.cache_clear()
