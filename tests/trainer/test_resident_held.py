"""A child's learner is there for the next call where it was left, and never somewhere else."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="a learner needs the extra 'model'")

import torch

from app.errors import BadModel
from workers.trainer.child import Cancelled, Held
from workers.trainer.child.ranks import Alone
from workers.trainer.learner import Learner, Lora, Settings
from workers.trainer.samples import Sample

SAMPLES = [Sample(key="one", ids=tuple(range(40, 60)), targets=(18, 19))]


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def held(stop: threading.Event) -> Held:
    torch.set_num_threads(1)
    return Held(Alone(), stop)


@pytest.fixture
def settings(tiny_model: Path) -> Settings:
    return Settings(base=str(tiny_model), lora=Lora(r=4, alpha=8.0), learning_rate=1e-2)


def imitate(out: Any) -> Any:
    return -out.logprobs.sum(), {}


def step(learner: Learner) -> None:
    learner.accumulate(SAMPLES, imitate)
    learner.step()


def says(learner: Learner) -> list[float]:
    return [float(value) for value in learner.logprobs(SAMPLES)[0]]


def test_it_is_given_as_it_is_to_a_call_that_asks_for_where_it_was_left(held: Held, settings: Settings, tmp_path: Path) -> None:
    learner = held.learner(settings)
    step(learner)
    learner.save(tmp_path / "one")
    held.keep(tmp_path / "one")
    shutil.rmtree(tmp_path / "one")  # it is not read

    again = held.learner(settings, tmp_path / "one")
    assert again is learner
    assert again.steps == 1


def test_a_call_that_left_it_somewhere_is_not_gone_on_from(held: Held, settings: Settings, tmp_path: Path) -> None:
    learner = held.learner(settings)
    step(learner)
    learner.save(tmp_path / "one")
    held.keep(tmp_path / "one")
    at_one = says(learner)
    step(held.learner(settings, tmp_path / "one"))  # and then it went wrong
    assert says(learner) != at_one

    again = held.learner(settings, tmp_path / "one")
    assert again is learner, "the model is not loaded anew"
    assert says(again) == at_one
    assert again.steps == 1


def test_one_that_was_not_kept_at_its_beginning_is_made_anew(held: Held, settings: Settings) -> None:
    first = held.learner(settings)
    at_first = says(first)
    held.keep()
    assert held.learner(settings) is first
    step(first)

    second = held.learner(settings)
    assert second is not first
    assert says(second) == at_first


def test_other_settings_and_another_model_under_the_same_name_are_another_learner(
    held: Held, settings: Settings, tiny_model: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    here = Settings(base=str(base), lora=settings.lora)
    first = held.learner(here)
    held.keep()
    assert held.learner(Settings(base=str(base), lora=settings.lora, learning_rate=1e-3)) is not first

    second = held.learner(here)
    held.keep()
    (base / "chat_template.jinja").write_text((base / "chat_template.jinja").read_text() + " ")
    assert held.learner(here) is not second


def test_a_checkpoint_that_is_none_leaves_nothing_that_could_be_taken_for_it(
    held: Held, settings: Settings, tmp_path: Path
) -> None:
    held.learner(settings)
    held.keep()
    for _ in range(2):
        with pytest.raises(BadModel):
            held.learner(settings, tmp_path / "nothing")


def test_it_stops_between_two_passes(held: Held, settings: Settings, stop: threading.Event) -> None:
    learner = held.learner(settings)
    before = says(learner)
    stop.set()
    with pytest.raises(Cancelled):
        learner.accumulate(SAMPLES, imitate)
    with pytest.raises(Cancelled):
        held.check()
    stop.clear()
    assert np.allclose(says(learner), before)
