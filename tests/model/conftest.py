"""How tests of models share a machine."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """These models are tiny: threads would wait for one another, and keep other tests from the processors meanwhile."""
    if find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)
