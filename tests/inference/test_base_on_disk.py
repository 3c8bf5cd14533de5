"""What is behind a name is known by its bytes, and bytes are read only where sizes and times say that they may be others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from core import model_folders
from inference.folder_kit import replace_weights

from app import model_folder, weights
from workers.inference import files
from workers.inference.base import Base
from workers.inference.engines.admin import ServedModel
from workers.inference.files import Hashes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folders.base(tmp_path / "base")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled as soon as they are written."""
    monkeypatch.setattr(files, "SETTLED_S", -1.0)


def begun(folder: Path, told: str = "") -> Base:
    """A base that is served from a folder."""
    base = Base(str(folder))
    base.note()
    base.begin([ServedModel(name=str(folder), path=str(folder), adapter=False, sha256=told)])
    return base


def touch(folder: Path) -> None:
    """Change the time of the weights and nothing else."""
    (file,) = weights.files(folder)
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))


def test_the_folder_tells_what_is_served_where_the_engine_does_not(folder: Path) -> None:
    assert begun(folder).sha256 == weights.sha256(folder)
    assert begun(folder, told="c" * 64).sha256 == "c" * 64


def test_what_is_served_is_not_known_when_the_folder_changed_while_the_engine_came_up(folder: Path) -> None:
    base = Base(str(folder))
    base.note()
    replace_weights(folder)
    base.begin([])
    assert base.sha256 == ""


def test_a_model_on_the_hub_is_never_outdated() -> None:
    base = Base("org/name")
    base.begin([ServedModel(name="org/name", path="", adapter=False, sha256="")])
    assert (base.sha256, base.look(), base.outdated) == ("", False, False)


@pytest.mark.usefixtures("at_once")
def test_other_weights_in_the_folder_are_noticed_once(folder: Path) -> None:
    base = begun(folder)
    assert not base.look()
    replace_weights(folder)
    assert base.look()
    assert base.outdated
    assert not base.look(), "it is no news any more"


@pytest.mark.usefixtures("at_once")
def test_the_same_bytes_written_anew_are_no_other_weights_and_are_read_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = begun(folder)
    touch(folder)
    assert not base.look()
    assert not base.outdated
    monkeypatch.setattr(weights, "sha256", lambda _: pytest.fail("nothing has changed since"))
    assert not base.look()


@pytest.mark.usefixtures("at_once")
def test_weights_of_which_only_the_headers_are_hashed_count_as_others_when_they_are_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MOST_HASHED_BYTES", 1)
    base = begun(folder)
    assert not base.look()
    touch(folder)
    assert base.look()


@pytest.mark.usefixtures("at_once")
def test_a_folder_that_holds_no_whole_model_leaves_what_is_served_until_it_does(folder: Path) -> None:
    base = begun(folder)
    (file,) = weights.files(folder)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert not base.look()
    file.unlink()
    assert not base.look()
    file.write_bytes(whole)
    replace_weights(folder)
    assert base.look()


def test_files_that_somebody_may_be_writing_to_are_left_alone(folder: Path) -> None:
    base = begun(folder)
    replace_weights(folder)
    assert not base.look()
    (file,) = weights.files(folder)
    os.utime(file, (time.time() - 60, time.time() - 60))
    assert base.look()


class TestHashes:
    """An adapter that waits for room is looked at again and again, and read once."""

    @pytest.fixture(autouse=True)
    def read(self, folder: Path, tmp_path: Path) -> None:
        self.folder = model_folders.adapter(tmp_path / "adapter", folder)
        self.reads = 0

    def hashes(self) -> Hashes:
        def sha256(path: Path) -> str:
            self.reads += 1
            return model_folder.adapter_sha256(path)

        return Hashes((model_folder.ADAPTER_WEIGHTS, model_folder.ADAPTER_CONFIG), sha256)

    def age(self, by_s: float) -> None:
        """Make its files older."""
        for file in self.folder.iterdir():
            os.utime(file, (time.time() - by_s, time.time() - by_s))

    def test_a_folder_is_read_once_while_its_files_are_the_same(self) -> None:
        self.age(60)
        hashes = self.hashes()
        assert {hashes.of(self.folder) for _ in range(5)} == {model_folder.adapter_sha256(self.folder)}
        assert self.reads == 1

    def test_one_whose_settings_are_others_is_read_again(self) -> None:
        self.age(60)
        hashes = self.hashes()
        before = hashes.of(self.folder)
        config = self.folder / model_folder.ADAPTER_CONFIG
        config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
        assert hashes.of(self.folder) == model_folder.adapter_sha256(self.folder) != before

    def test_one_that_was_just_written_is_read_each_time(self) -> None:
        hashes = self.hashes()
        hashes.of(self.folder)
        hashes.of(self.folder)
        assert self.reads == 2
