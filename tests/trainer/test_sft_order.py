"""The order of samples: every one once in an epoch, the same for the same seed, and with little padding."""

from __future__ import annotations

import numpy as np
import pytest

from app import specs
from app.specs.sft import SftSpec
from workers.trainer.sft.order import steps_of

LENGTHS = np.random.default_rng(0).integers(20, 900, 500).tolist()


def order(count: int = 500, *, seed: int = 3, epoch: int = 0, batch: int = 4, batches: int = 2) -> list[list[int]]:
    return steps_of(LENGTHS[:count], seed=seed, epoch=epoch, batch=batch, batches=batches)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 128, 129, 500])
def test_every_sample_comes_once_in_as_many_steps_as_the_spec_says(count: int) -> None:
    made = order(count)
    spec = specs.build({"sft": {"model": "/m", "data": "x", "batch_size": 4, "gradient_accumulation_steps": 2}}, env={})
    assert isinstance(spec, SftSpec)
    assert sorted(number for step in made for number in step) == list(range(count))
    assert len(made) == spec.sft.steps(count)
    assert all(len(step) <= 8 for step in made)


def test_the_order_is_that_of_its_seed_and_epoch() -> None:
    assert order() == order()
    assert order(seed=4) != order()
    assert order(epoch=1) != order()


def test_samples_that_go_together_are_of_about_one_length() -> None:
    def padding(made: list[list[int]]) -> float:
        cut = [step[at : at + 4] for step in made for at in range(0, len(step), 4)]
        padded = sum(len(batch) * max(LENGTHS[number] for number in batch) for batch in cut)
        return 1 - sum(LENGTHS) / padded

    at_random = np.random.default_rng(1).permutation(500).tolist()
    assert padding(order()) < 0.1 < 0.3 < padding([at_random[at : at + 8] for at in range(0, 500, 8)])


def test_short_samples_do_not_all_come_first() -> None:
    middles = [np.mean([LENGTHS[number] for number in step]) for step in order(batch=4, batches=1)]
    halves = np.mean(middles[: len(middles) // 2]), np.mean(middles[len(middles) // 2 :])
    assert abs(halves[0] - halves[1]) < 120
