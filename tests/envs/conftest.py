"""Puts a package with an environment of its own beside ours, as pip would: a folder with a ``dist-info`` on the path."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.rollout import envs

ENTRY = """\
[synthq.environments]
corridor = corridor_package:Corridor
"""


@pytest.fixture(scope="session")
def other_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the path with the installed package ``corridor-package``."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(Path(__file__).with_name("corridor.py"), site / "corridor_package.py")
    info = site / "corridor_package-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: corridor-package\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(ENTRY)
    sys.path.append(str(site))
    envs.registered.cache_clear()
    yield site
    sys.path.remove(str(site))
    envs.registered.cache_clear()
