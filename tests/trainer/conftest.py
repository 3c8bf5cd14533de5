"""What tests of the trainer may ask for: the tiny model as it is without a learner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Any:
    """The tiny model as transformers has it."""
    import torch

    from workers.model.loading import load

    torch.set_num_threads(1)
    return load(tiny_model, device="cpu")
