"""Models of published sizes, at random. The sizes are checked without memory; files are written of a shrunken one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Qwen3VLForConditionalGeneration

from app import model_folder, weights
from app.errors import InvalidInput, UnknownName
from app.geometry import PUBLISHED
from app.model_folder import BaseFolder
from workers.model import new, start
from workers.model.geometry import TINY, config_of
from workers.model.loading import load
from workers.model.new import Made
from workers.model.random_like import init_random

TEXTS = ["Reply with 1 action, and nothing else: noop move_left"]


@pytest.fixture
def shrunken(monkeypatch: pytest.MonkeyPatch) -> str:
    """A published size that has shrunk in every direction but keeps its form: a tower with mergers, more rows than tokens."""
    small = replace(
        PUBLISHED["qwen3-vl-4b"],
        **{"hidden": 64, "layers": 4, "heads": 4, "kv_heads": 2, "head_dim": 32, "intermediate": 96, "mrope": (6, 5, 5)},
        **{"vision_hidden": 32, "vision_depth": 4, "vision_heads": 2, "vision_intermediate": 64, "deepstack": (0, 1, 2)},
        vocab=4000,
    )
    monkeypatch.setitem(PUBLISHED, "shrunken", small)
    return "shrunken"


def make(folder: Path, like: str, **more: object) -> Made:
    return init_random(folder, TEXTS, like=like, vocab=512, words=("noop",), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "billions"), [("qwen3-vl-2b", 2.13), ("qwen3-vl-4b", 4.44), ("qwen3-vl-8b", 8.77), ("qwen3-vl-32b", 33.36)]
)
def test_a_published_size_has_as_many_parameters_as_the_published_model(tiny_model: Path, name: str, billions: float) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    config = config_of(PUBLISHED[name], tokenizer)
    assert sum(map(math.prod, start.skeleton(config).values())) / 1e9 == pytest.approx(billions, abs=0.005)


@pytest.mark.parametrize("geometry", [*PUBLISHED.values(), *TINY.values()])
def test_every_size_has_a_form_that_can_be_computed(geometry) -> None:
    assert 2 * sum(geometry.mrope) == geometry.head_dim
    assert geometry.heads % geometry.kv_heads == 0
    assert geometry.vision_hidden % (4 * geometry.vision_heads) == 0
    assert max(geometry.deepstack) < geometry.vision_depth
    assert len(geometry.deepstack) <= geometry.layers


def test_it_is_written_in_files_and_loads_as_any_model(shrunken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "SHARD_BYTES", 300_000)
    told: list[int] = []
    made = make(tmp_path / "model", shrunken, tick=told.append)
    assert sum(told) == made.parameters
    files = weights.files(made.path)
    assert len(files) > 2
    assert all(file.stat().st_size < 600_000 for file in files)
    folder = model_folder.read(made.path)
    assert isinstance(folder, BaseFolder)
    assert (folder.parameters, folder.dtype, folder.vocab) == (made.parameters, "bfloat16", 4000)
    assert (folder.min_pixels, folder.max_pixels) == (65_536, 16_777_216)
    model, report = Qwen3VLForConditionalGeneration.from_pretrained(made.path, output_loading_info=True)
    assert not report["missing_keys"]
    assert model.dtype == torch.bfloat16
    loaded = load(made.path, device="cpu")
    assert len(loaded.tokenizer) < loaded.vocab
    assert json.loads((made.path / "synthq.json").read_text())["kind"] == "random"


def test_one_file_and_several_hold_the_same_weights(shrunken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(tmp_path / "one", shrunken)
    monkeypatch.setattr(start, "_DRAWN", 1000)
    monkeypatch.setattr(start, "SHARD_BYTES", 300_000)
    several = make(tmp_path / "several", shrunken)
    first = Qwen3VLForConditionalGeneration.from_pretrained(one.path).state_dict()
    second = Qwen3VLForConditionalGeneration.from_pretrained(several.path).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fewer_layers_are_made_where_they_are_asked_for(shrunken: str, tmp_path: Path) -> None:
    made = make(tmp_path / "model", shrunken, layers=3)
    assert load(made.path, device="cpu").model.config.text_config.num_hidden_layers == 3
    with pytest.raises(InvalidInput, match="layers must be 3 to 4, not 2"):
        make(tmp_path / "other", shrunken, layers=2)


def test_a_size_that_there_is_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="no published Qwen3-VL named 'qwen3-vl-5b'; did you mean"):
        make(tmp_path / "model", "qwen3-vl-5b")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_the_disk_cannot_hold_is_refused_before_it_is_begun(
    shrunken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new.shutil, "disk_usage", lambda _: new.shutil._ntuple_diskusage(10**6, 10**6 - 5, 5))  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match=r"the weights take .* and there are 5 bytes free in"):
        make(tmp_path / "model", shrunken)
    assert list(tmp_path.iterdir()) == []
