"""Pictures of one size go through the vision tower as one batch where a model is trained, and that changes no number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from learner_kit import TOLERANCE, gradients, imitate, learner, sample  # noqa: E402

from workers.model import vision  # noqa: E402


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each batch had that went through the tower."""
    seen: list[int] = []
    see = vision._see

    def counted(tower: Any, grid: vision.Grid, patches: Sequence[np.ndarray]) -> Any:
        seen.append(len(patches))
        return see(tower, grid, patches)

    monkeypatch.setattr(vision, "_see", counted)
    return seen


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_frames_of_one_size_of_all_samples_of_a_pass_are_one_batch(tiny_model: Path, batches: list[int], mode: str) -> None:
    together, alone = (learner(tiny_model, mode=mode, tokens_per_pass=most) for most in (4096, 1))
    samples = [sample(together.loaded, number, tokens=40, pictures=2) for number in range(3)]

    first = together.logprobs(samples)
    assert batches == [6]
    batches.clear()
    assert np.allclose(np.concatenate(alone.logprobs(samples)), np.concatenate(first), atol=TOLERANCE)
    assert batches == [2, 2, 2]

    for one in (together, alone):
        one.accumulate(samples, imitate)
    wanted = gradients(alone)
    assert wanted.keys() == gradients(together).keys()
    assert any("visual" in name for name in wanted) == (mode == "full")
    for name, found in gradients(together).items():
        assert torch.allclose(found, wanted[name], rtol=1e-3, atol=1e-4 * float(wanted[name].abs().max())), name


def test_a_frame_that_was_seen_is_not_seen_again(tiny_model: Path, batches: list[int]) -> None:
    one = learner(tiny_model)
    samples = [sample(one.loaded, number, pictures=1) for number in (1, 1, 2)]
    one.accumulate(samples, imitate)
    one.accumulate(samples, imitate)
    assert batches == [2]
