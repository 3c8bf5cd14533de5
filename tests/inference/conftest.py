"""What tests of engines may ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def loaded(tiny_model: Path) -> Any:
    """The tiny model in memory, once. Engines put adapters on it and take them off again; nothing else may change it."""
    import torch

    from workers.model.loading import load

    torch.set_num_threads(1)
    return load(tiny_model, device="cpu")
