"""Our Crafter beyond what stock has: reproducible anywhere, frozen and woken, seeds kept, actions judged."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.errors import BadSnapshot, InvalidInput
from app.settings import get_settings
from app.specs.crafter import ACHIEVEMENTS
from workers.rollout.envs.crafter import Crafter, state
from workers.rollout.envs.crafter.advance import begin
from workers.rollout.envs.crafter.starts import Starts, shared
from workers.rollout.envs.crafter.state import pack

ROOT = Path(__file__).parents[2]

PLAY = """
import random, sys
from workers.rollout.envs.crafter import Crafter
env, rng = Crafter(image_size=int(sys.argv[1])), random.Random(1)
env.reset(2)
for step in range(170):
    env.world.player.health = 9
    env.step(rng.choice(env.actions))
    if sys.argv[2] == "look":
        env.frame()
    if step % 10 == 9:
        print(env.state_sha256())
"""


def played(seed: int, steps: int, *, energy: int | None = None, length: int = 10_000) -> Crafter:
    """An episode under way; ``energy`` below 9 lets the player fall asleep in it."""
    env, rng = Crafter(length=length), random.Random(seed)
    env.reset(seed)
    for _ in range(steps):
        env.world.player.health = 9
        env.step(rng.choice(env.actions))
    if energy is not None:
        env.world.player.inventory["energy"] = energy
        env.step("sleep")
    return env


def test_an_episode_is_the_same_in_every_process_with_any_picture_or_none() -> None:
    runs = [("0", "64", "look"), ("1", "64", "blind"), ("2", "144", "look"), ("3", "20", "look")]
    told = {
        subprocess.run(
            [sys.executable, "-c", PLAY, size, look],
            env=os.environ | {"PYTHONHASHSEED": salt},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt, size, look in runs
    }
    assert len(told) == 1
    assert len(set(told.pop().split())) == 17


@pytest.mark.parametrize(("steps", "energy"), [(40, None), (40, 3), (180, None), (180, 3)])
def test_an_episode_goes_on_from_a_snapshot_by_day_and_night_awake_and_asleep(steps: int, energy: int | None) -> None:
    env = played(4, steps, energy=energy)
    assert env.status()["sleeping"] is (energy is not None)
    assert (env.status()["daylight"] < 0.5) is (steps == 180)
    blob = env.snapshot()
    other = Crafter()
    other.restore(blob)
    assert other.snapshot() == blob
    assert np.array_equal(other.frame(), env.frame())
    rng = random.Random(0)
    for _ in range(120):
        if env.ended:
            break
        action = rng.choice(env.actions)
        assert env.step(action) == other.step(action)
        assert np.array_equal(env.frame(), other.frame())
        assert env.state_sha256() == other.state_sha256()


def test_a_snapshot_is_small() -> None:
    assert len(played(4, 180).snapshot()) < 16_000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"step":', b'"stop":'),
        (b'"facing":[0,1]', b'"facing":[0,3]'),
        (b'"at":[32,32]', b'"at":[64,32]'),
        (b'["cow",', b'["cat",'),
        (b'["cow",', b'["cow",1,'),
        (b'"chunks":[[', b'"chunks":[[7'),
        (b'"food":9', b'"food":99'),
        (b'"food":9', b'"food":true'),
        (b'{"seed"', b'["seed"'),
    ],
)
def test_a_well_sealed_snapshot_of_no_possible_world_is_refused(old: bytes, new: bytes) -> None:
    body = pack(begin(1))
    assert old in body
    with pytest.raises(BadSnapshot, match="describes no Crafter world"):
        Crafter().restore(state.seal(body.replace(old, new, 1)))


def test_a_damaged_snapshot_is_refused() -> None:
    env = played(1, 3)
    blob = bytearray(env.snapshot())
    for at in (0, 20, 60, len(blob) // 2, len(blob) - 1):
        bad = bytearray(blob)
        bad[at] ^= 1
        with pytest.raises(BadSnapshot):
            Crafter().restore(bytes(bad))


def test_length_and_size_of_the_picture_stay_with_the_environment_that_restores() -> None:
    env = played(1, 8)
    other = Crafter(image_size=144, length=8)
    other.restore(env.snapshot())
    assert other.frame().shape == (144, 144, 3)
    assert (env.ended, other.ended) == (None, "length")
    assert env.state_sha256() != other.state_sha256()


def test_reset_without_a_world_kept_gives_the_same_start_as_with_one(tmp_path: Path) -> None:
    fresh = pack(begin(6))
    starts = Starts(tmp_path)
    assert pack(starts.world(6)) == fresh
    assert pack(starts.world(6)) == fresh
    assert pack(Starts(tmp_path).world(6)) == fresh
    assert [path.name for path in tmp_path.iterdir()] == ["6.start"]


def test_a_world_that_was_played_leaves_the_kept_start_alone(tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    first = starts.world(6)
    first.player.inventory["wood"] = 5
    first.set_material(first.player.at, 1)
    first.rng.random()
    assert pack(starts.world(6)) == pack(begin(6))


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_of_the_cache_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    starts = Starts(tmp_path)
    good = pack(starts.world(6))
    path = tmp_path / "6.start"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10] if damage is None else damage)
    assert pack(Starts(tmp_path).world(6)) == good
    assert path.read_bytes() == whole


def test_a_start_under_another_seeds_name_is_not_believed(tmp_path: Path) -> None:
    Starts(tmp_path).world(6)
    (tmp_path / "6.start").rename(tmp_path / "7.start")
    assert pack(Starts(tmp_path).world(7)) == pack(begin(7))


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert pack(Starts(tmp_path / "file" / "cache").world(6)) == pack(begin(6))


def test_only_so_many_starts_are_kept_in_memory() -> None:
    starts = Starts(None, kept=2)
    for seed in (1, 2, 1, 3):
        starts.world(seed)
    assert list(starts._bodies) == [1, 3]


def test_starts_are_on_disk_only_where_synthq_has_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home, folder in ((tmp_path / "none", None), (tmp_path, tmp_path / "cache" / "crafter" / "1")):
        monkeypatch.setenv("SYNTHQ_HOME", str(home))
        get_settings.cache_clear()
        assert shared("1").folder == folder
    get_settings.cache_clear()


def test_the_world_is_read_before_it_is_reset_in_vain() -> None:
    with pytest.raises(InvalidInput, match="seed is -1"):
        Crafter().reset(-1)


@pytest.mark.parametrize("config", [{"image_size": 8}, {"image_size": 145}, {"length": 0}, {"area": (32, 32)}])
def test_a_setting_that_cannot_be_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(config))):
        Crafter(**config)  # type: ignore[arg-type]


def test_every_size_of_picture_can_be_drawn() -> None:
    env = played(4, 160)
    for size in (9, 10, 17, 18, 19, 27, 143):
        other = Crafter(image_size=size)
        other.restore(env.snapshot())
        assert other.frame().shape == (size, size, 3)


def test_the_specs_know_the_same_achievements() -> None:
    assert Crafter.achievements == ACHIEVEMENTS


def test_an_action_without_effect_is_told() -> None:
    env = Crafter()
    env.reset(0)
    player = env.world.player
    assert not env.step("noop").changed
    assert not env.step("place_table").changed
    assert not env.step("make_wood_pickaxe").changed
    assert not env.step("sleep").changed, "nobody sleeps with full energy"
    assert env.step("move_left").changed
    env.world.set_material(player.target, 6)
    assert not env.step("move_left").changed, "it neither turned nor moved"
    assert env.step("do").changed
    assert player.inventory["wood"] == 1
    player.inventory.update(wood=9, energy=3)
    assert env.step("place_table").changed
    assert env.step("make_wood_pickaxe").changed
    assert not env.step("do").changed, "a table gives nothing"
    assert env.step("sleep").changed
    assert not env.step("move_right").changed, "a sleeper sleeps on"


def test_the_status_is_what_the_picture_shows() -> None:
    env = played(4, 30)
    status, world, player = env.status(), env.world, env.world.player
    assert [len(row) for row in status["view"]] == [9] * 7
    for row, names in enumerate(status["view"]):
        for column, name in enumerate(names):
            x, y = player.x + column - 4, player.y + row - 3
            thing = world.thing(x, y)
            assert name == (thing.name if thing else world.material(x, y))
    dx, dy = status["facing"]
    assert status["faces"] == status["view"][3 + dy][4 + dx]
    assert status["view"][3][4] == "player"
    assert 0 not in status["inventory"].values()
    assert set(status["achievements"]) == set(env.unlocked())


def test_beyond_the_map_is_outside() -> None:
    env = Crafter()
    env.reset(0)
    world = env.world
    for _ in range(40):
        if world.player.y:
            world.set_material(world.player.target, 4)
        world.player.health = 9
        env.step("move_up")
    assert world.player.y == 0
    assert env.status()["view"][:3] == [["outside"] * 9] * 3
    assert env.status()["faces"] == "outside"
