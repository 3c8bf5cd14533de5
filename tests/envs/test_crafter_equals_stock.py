"""Our Crafter is stock Crafter (with ordered chunks), bit for bit: frames, rewards, inventories, semantics, draws."""

from __future__ import annotations

from itertools import product

import crafter.constants
import numpy as np
import pytest
from pair import Pair, play_busily, play_to_the_end

from workers.rollout.envs.crafter import tables
from workers.rollout.envs.crafter.render import painter


@pytest.mark.parametrize("seed", range(2))
def test_an_episode_is_equal_to_its_death(seed: int) -> None:
    assert play_to_the_end(seed).ours.ended == "died"


@pytest.mark.parametrize("seed", [100, 104])
def test_a_busy_episode_is_equal_through_day_and_night(seed: int) -> None:
    assert play_busily(seed, 450).ours.length > 300


@pytest.mark.parametrize("seed", range(10, 16))
def test_more_episodes_are_equal_to_their_death(seed: int) -> None:
    assert play_to_the_end(seed).ours.ended == "died"


def test_frames_of_any_size_are_equal_by_day() -> None:
    pair = Pair(7)
    pair.give(wood=9, energy=3)
    for action in ("move_left", "do", "place_table", "sleep", "move_up"):
        pair.step(action)
        for size in (18, 33, 63, 70, 71, 72, 100, 143, 144):
            ours = painter(size).paint(pair.ours.world, noise=None)
            assert np.array_equal(ours, pair.stock.render((size, size))), size


@pytest.mark.parametrize("size", [63, 71])
def test_a_size_with_the_same_tile_has_the_same_night(size: int) -> None:
    pair = Pair(3, size=size)
    for step in range(215):
        pair.give(health=9, energy=5)
        pair.step("sleep" if step > 180 else "noop", look=step > 145)


@pytest.mark.parametrize("size", [20, 144])
def test_a_night_of_another_size_is_stock_with_noise_of_its_own(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock draws the noise of its own size from the world: let it draw as at 64 pixels, and mix in ours."""
    pair = Pair(3, size=size)
    view = pair.stock._local_view

    class Draws:
        def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
            world.random.uniform(low, high, (63, 49))
            key = [3, 0, pair.stock._step, size // 9]
            return np.random.RandomState(key).uniform(low, high, shape)

    class Looked:
        def __init__(self) -> None:
            self.random = Draws()

        def __getattr__(self, name: str) -> object:
            return getattr(world, name)

        def __getitem__(self, at: object) -> object:
            return world[at]

    world = view._world
    monkeypatch.setattr(view, "_world", Looked())
    for step in range(165):
        pair.give(health=9)
        pair.step("noop", look=step > 140)


def test_the_tables_are_those_of_the_package() -> None:
    theirs = crafter.constants
    assert list(tables.ACTIONS) == theirs.actions
    assert list(tables.ACHIEVEMENTS) == theirs.achievements
    assert list(tables.MATERIALS[1:]) == theirs.materials
    assert {name: info["initial"] for name, info in theirs.items.items()} == {
        name: tables.MOST if name in tables.VITALS else 0 for name in tables.ITEMS
    }
    assert {info["max"] for info in theirs.items.values()} == {tables.MOST}
    number = {name: i for i, name in enumerate(tables.MATERIALS)}
    assert {name: (info["uses"], {number[m] for m in info["where"]}, info["type"]) for name, info in theirs.place.items()} == {
        name: (dict(rule.uses), set(rule.where), "object" if rule.material is None else "material")
        for name, rule in tables.PLACE.items()
    }
    assert {name: (info["uses"], {number[m] for m in info["nearby"]}) for name, info in theirs.make.items()} == {
        name: (dict(rule.uses), set(rule.nearby)) for name, rule in tables.MAKE.items()
    }
    assert {
        number[name]: (info["receive"], number[info["leaves"]], info["require"], info.get("probability", 1))
        for name, info in theirs.collect.items()
    } == {
        material: ({rule.item: 1}, rule.leaves, {rule.tool: 1} if rule.tool else {}, rule.probability)
        for material, rule in tables.COLLECT.items()
    }
    for material, (walker, table) in product(
        range(1, len(tables.MATERIALS)), [("", tables.WALKABLE), ("lava", tables.WALKABLE_PLAYER)]
    ):
        name = tables.MATERIALS[material]
        assert table[material] == (name in theirs.walkable or name == walker)
