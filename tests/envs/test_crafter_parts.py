"""The exact parts one by one, against the libraries that they stand in for."""

from __future__ import annotations

import random

import numpy as np
import opensimplex
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from workers.rollout.envs.crafter import draws, light
from workers.rollout.envs.crafter.simplex import Noise


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31 - 2])
def test_noise_has_every_bit_of_opensimplex(seed: int) -> None:
    rng = np.random.RandomState(seed)
    points = rng.uniform(-30, 30, (3, 3000))
    points[:, :1500] = np.round(points[:, :1500] * 4) / 4  # ties between scores, corners and cell borders
    theirs = opensimplex.OpenSimplex(seed)
    expected = [theirs.noise3(*point) for point in points.T.tolist()]
    assert np.array_equal(Noise(seed)(*points), np.array(expected, float))


@given(st.integers(0, 2**31 - 2), st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 63, 64, 100, 2**31 - 1]), max_size=60))
@settings(max_examples=60, deadline=None)
def test_draws_are_those_of_random_state(seed: int, calls: list[int]) -> None:
    theirs, ours = np.random.RandomState(seed), draws.seeded(seed)
    for n in calls:
        if n:
            assert draws.below(ours, n) == theirs.randint(0, n)
        else:
            assert ours.random() == theirs.uniform()
    block = draws.block(ours, 500)
    assert np.array_equal(draws.doubles(block, 500), theirs.random_sample(500))
    assert ours.random() == theirs.uniform()


def test_a_generators_state_survives_packing() -> None:
    ours = draws.seeded(3)
    ours.random()
    other = random.Random()
    other.setstate(draws.unpack(draws.pack(ours.getstate())))
    assert [other.random() for _ in range(1000)] == [ours.random() for _ in range(1000)]


def test_night_and_sleep_are_pillows_colours() -> None:
    rng = np.random.RandomState(0)
    levels = np.array([0, 1, 2, 127, 128, 253, 254, 255])
    corners = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    colours = np.concatenate([corners, rng.randint(0, 256, (200_000 - len(corners), 3))]).astype(np.uint8)
    image = Image.fromarray(colours.reshape(400, 500, 3))
    planes = colours.T.astype(np.int32)
    assert np.array_equal(light.fade(planes).T.reshape(400, 500, 3), np.array(ImageEnhance.Color(image).enhance(0.4)))
    greys = np.array(ImageEnhance.Color(image).enhance(0.0))
    assert np.array_equal(light.grey(planes).reshape(400, 500), greys[..., 0])


def test_fading_is_pillows_for_every_grey_and_value() -> None:
    values, greys = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    theirs = np.array(Image.blend(Image.fromarray(greys), Image.fromarray(values), 0.4))
    mixed = (values.astype(np.int32) - greys).astype(np.float32) * np.float32(0.4) + greys.astype(np.float32)
    assert np.array_equal(mixed.astype(np.uint8), theirs)
