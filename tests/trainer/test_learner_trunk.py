"""What frozen layers made of a sample is kept, and keeping it changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from inference.core_kit import picture  # noqa: E402
from learner_kit import gradients, imitate, learner, mixed, sample  # noqa: E402

from workers.trainer.learner import Learner, Lora  # noqa: E402
from workers.trainer.learner.trunk import depth_of  # noqa: E402


def last(base: Path, *, dropout: float = 0.0, **changes: Any) -> Learner:
    """A learner of the last layer alone."""
    torch.set_num_threads(1)
    lora = Lora(r=4, alpha=8, dropout=dropout, layers_to_transform=(-1,))
    return learner(base, lora=lora, **{"tokens_per_pass": 200, **changes})


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_steps_from_what_was_kept_are_the_same_to_the_bit(tiny_model: Path, plain: Any, dropout: float) -> None:
    samples = mixed(plain)
    kept, not_kept = last(tiny_model, dropout=dropout), last(tiny_model, dropout=dropout, trunk_cache_bytes=0)
    for _ in range(3):
        told = [one.accumulate(samples, imitate, scale=0.1) for one in (kept, not_kept)]
        assert told[0] == told[1]
        first, second = gradients(kept), gradients(not_kept)
        assert first.keys() == second.keys() != set()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert kept.step() == not_kept.step()
    found = kept._trunk.cache.figures()
    assert (found["entries"], found["hits"], found["misses"]) == (len(samples), 2 * len(samples), len(samples))
    assert len(not_kept._trunk.cache) == 0
    for one, two in zip(kept.logprobs(samples), not_kept.logprobs(samples), strict=True):
        assert np.array_equal(one, two)
    for one, two in zip(kept.logprobs(samples, base=True), not_kept.logprobs(samples, base=True), strict=True):
        assert np.array_equal(one, two)


def test_a_saved_learner_keeps_nothing_of_what_it_saw(tiny_model: Path, plain: Any, tmp_path: Path) -> None:
    one = last(tiny_model)
    one.logprobs(mixed(plain))
    assert len(one._trunk.cache) == len(mixed(plain))
    one.save(tmp_path / "state")
    assert len(one._trunk.cache) == 0


def test_the_same_words_about_another_picture_are_another_sample(tiny_model: Path, plain: Any) -> None:
    one, fresh = last(tiny_model), last(tiny_model)
    shown = sample(plain, 1)
    other = replace(shown, pictures=(picture(plain, 77),))
    one.logprobs([shown])
    assert np.array_equal(one.logprobs([other])[0], fresh.logprobs([other])[0])
    assert len(one._trunk.cache) == 2


def test_pictures_whose_sample_is_kept_are_not_read(tiny_model: Path, plain: Any) -> None:
    one, asked = last(tiny_model), []
    shown = sample(plain, 1)
    counted = replace(shown.pictures[0], make=lambda: asked.append(1) or shown.pictures[0].patches)
    counting = replace(shown, pictures=(counted,))
    told = [one.logprobs([counting])[0] for _ in range(3)]
    assert len(asked) == 1
    assert np.array_equal(told[0], told[2])


def test_only_layers_below_all_that_learns_are_a_trunk(tiny_model: Path) -> None:
    one = last(tiny_model)
    count = len(one.loaded.model.model.language_model.layers)
    deep = len(one.loaded.model.config.vision_config.deepstack_visual_indexes)
    assert one._trunk.depth == count - 1 >= deep > 0
    assert learner(tiny_model)._trunk.depth == 0
    assert learner(tiny_model, mode="full")._trunk.depth == 0
    layer = "model.language_model.layers.{}.mlp.up_proj.weight".format
    assert depth_of([layer(deep), layer(count - 1)], one.loaded.model) == deep
    assert depth_of([layer(deep - 1), layer(count - 1)], one.loaded.model) == 0
    assert depth_of([layer(count - 1), "model.language_model.norm.weight"], one.loaded.model) == 0
    assert depth_of([], one.loaded.model) == 0
