"""Puts a package with policies and an environment of its own beside ours, as pip would."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from core.kit import use_settings
from engine_stand_in import Engine
from play_kit import dist_info

from workers.rollout import envs, policies
from workers.rollout.policies.engine import engines


@pytest.fixture
def no_pauses(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No pauses, endpoints that need not beat, and a keeper that looks often."""
    monkeypatch.setattr(engines, "PAUSE_S", 0.0)
    monkeypatch.setattr(engines, "AVOID_S", 0.01)
    monkeypatch.setattr(engines, "LOOK_S", 0.2)
    with use_settings(SYNTHQ_BACKOFF_S="0", SYNTHQ_WATCH_S="0.05", SYNTHQ_ENDPOINT_HEARTBEAT_S="1000"):
        yield


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One engine that stands in, ready."""
    with Engine() as running:
        yield running.report()


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
