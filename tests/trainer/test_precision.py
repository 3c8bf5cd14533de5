"""`bf16` means the same in every kind of training, and on a CPU what is done in its place is said."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="a trainer needs the extra 'model'")

import torch
from trainer.rl_kit import spec_of

from app import specs
from app.specs.sft import SftSpec
from workers.trainer import precision
from workers.trainer.rl.options import settings
from workers.trainer.sft.plan import plan


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("asked", [None, True, False])
def test_both_trainings_compute_in_the_same_numbers(
    asked: bool | None, on_gpu: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    imitates = specs.parse("sft", {"sft": {"model": "/m", "data": "job_x", "bf16": asked}})
    assert isinstance(imitates, SftSpec)
    of_data = plan(imitates, base="/m", adapter="", samples=1, processes=1)
    of_play = settings(spec_of(tmp_path, training={"bf16": asked}), "/m", "")
    wanted = {None: "auto", True: "bfloat16" if on_gpu else "float32", False: "float32"}[asked]
    assert of_data.settings.dtype == of_play.dtype == wanted
    said = [precision.ON_A_CPU] if asked and not on_gpu else []
    assert list(of_data.substituted) == precision.substituted(asked) == said
