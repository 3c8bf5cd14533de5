"""A training from data in one process: it learns, goes on exactly where it was stopped, and keeps what was best."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from sft_kit import Trained, line, lines, written

from app import model_folder, weights
from app.errors import BadDataset, InvalidInput
from app.model_folder import AdapterFolder, BaseFolder
from workers.trainer.child import Cancelled
from workers.trainer.sft import kept as keeping

pytest.importorskip("transformers")


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return written(tmp_path / "train.jsonl", lines(24))


@pytest.fixture
def val(tmp_path: Path) -> Path:
    return written(tmp_path / "val.jsonl", lines(8, seeds=2))


def test_a_model_learns_what_its_lines_say(tiny_model: Path, train: Path, val: Path, tmp_path: Path) -> None:
    made = Trained(tiny_model, train, tmp_path / "run", val=val, epochs=4, schedule="constant", warmup_ratio=0.0)
    result = made.run()
    assert result["steps"] == result["steps_planned"] == 24
    assert result["loss"]["last"] < 0.5 * result["loss"]["first"]
    assert result["validation"]["best"]["loss"] < 0.5 * made.rows("train")[1]["loss"]
    assert result["validation"]["best"]["accuracy"] > 0.5
    assert (result["samples_learnt"], result["samples"], result["lines"]) == (96, 24, 24)
    assert sorted(made.rows("train")) == list(range(1, 25))
    assert sorted(made.rows("val")) == [6, 12, 18, 24]
    folder = Path(result["folder"])
    assert isinstance(model_folder.read(folder), BaseFolder)
    assert weights.sha256(folder) != result["base_sha256"]


def test_one_that_is_stopped_goes_on_as_if_it_had_not_been(tiny_model: Path, train: Path, val: Path, tmp_path: Path) -> None:
    table: dict[str, Any] = {"trainer_mode": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.2}, "log_interval": 2}
    table["validation"] = {"eval_steps": 4}
    whole = Trained(tiny_model, train, tmp_path / "whole", val=val, **table)
    wanted = whole.run()
    parts = Trained(tiny_model, train, tmp_path / "parts", val=val, **table)
    for stop_at in (2, 6):
        with pytest.raises(Cancelled):
            parts.run(stop_at=stop_at)
        parts.again()
    found = parts.run()
    assert found["resumed_at"] > 2
    assert parts.rows("train") == whole.rows("train")
    assert parts.rows("val") == whole.rows("val")
    assert _content(found) == _content(wanted)
    assert (found["samples_learnt"], found["tokens"], found["loss"]) == (
        wanted["samples_learnt"],
        wanted["tokens"],
        wanted["loss"],
    )


def _content(result: dict[str, Any]) -> str:
    return model_folder.adapter_sha256(Path(result["folder"]))


def test_one_that_is_stopped_while_it_is_tried_is_tried_again(tiny_model: Path, train: Path, val: Path, tmp_path: Path) -> None:
    made = Trained(tiny_model, train, tmp_path / "run", val=val, validation={"eval_steps": 3}, max_steps=4)
    with pytest.raises(Cancelled):
        made.run(stop_at=3)
    assert made.rows("val") == {}
    made.again()
    made.run()
    assert sorted(made.rows("val")) == [3, 4]


def test_a_checkpoint_that_was_damaged_is_passed_over_for_the_one_before(tiny_model: Path, train: Path, tmp_path: Path) -> None:
    made = Trained(tiny_model, train, tmp_path / "run", checkpoint_steps=2, max_steps=7)
    with pytest.raises(Cancelled):
        made.run(stop_at=5)
    newest, before = keeping.Kept(tmp_path / "run").checkpoints()
    assert (newest.name, before.name) == ("step-00000005", "step-00000004")
    (newest / "weights.safetensors").write_bytes(b"\0" * 100)
    made.again()
    assert made.run()["resumed_at"] == 4
    assert any("cannot be read, so the one before it is taken" in said for said in made.warnings)


def test_what_comes_out_is_the_best_and_not_the_last(tiny_model: Path, train: Path, tmp_path: Path) -> None:
    contrary = written(tmp_path / "val.jsonl", [line("tree move_left", "move_right", seed=1)])
    made = Trained(
        tiny_model,
        train,
        tmp_path / "run",
        val=contrary,
        epochs=6,
        validation={"eval_steps": 1, "patience": 4},
        learning_rate=1e-2,
    )
    result = made.run()
    tried = made.rows("val")
    best = min(tried, key=lambda step: tried[step]["loss"])
    assert result["stopped_early"]
    assert result["steps"] == best + 4 < result["steps_planned"]
    assert result["of_step"] == result["validation"]["best"]["step"] == best
    assert Path(result["folder"]).name == f"best-{best:08d}"
    assert result["validation"]["last"]["loss"] > tried[best]["loss"]


def test_the_last_comes_out_where_the_spec_says_so(tiny_model: Path, train: Path, val: Path, tmp_path: Path) -> None:
    made = Trained(tiny_model, train, tmp_path / "run", val=val, max_steps=3, validation={"save_best": False})
    assert made.run()["of_step"] == 3
    assert [path.name for path in (tmp_path / "run").glob("*-0*")] == ["last-00000003"]


def test_an_adapter_comes_out_that_is_for_its_base_and_leaves_the_vision_tower(
    tiny_model: Path, train: Path, tmp_path: Path
) -> None:
    made = Trained(tiny_model, train, tmp_path / "run", trainer_mode="lora", max_steps=2)
    found = model_folder.read(Path(made.run()["folder"]))
    assert isinstance(found, AdapterFolder)
    assert (found.base, found.rank, found.touches_vision) == (str(tiny_model), 4, False)


def test_a_training_goes_on_from_an_adapter(tiny_model: Path, train: Path, tmp_path: Path) -> None:
    table: dict[str, Any] = {"trainer_mode": "lora", "warmup_ratio": 0.0, "schedule": "constant"}
    first = Trained(tiny_model, train, tmp_path / "first", epochs=3, **table)
    before = first.run()
    second = Trained(tiny_model, train, tmp_path / "second", epochs=1, **table)
    second.args["adapter"] = before["folder"]
    after = second.run()
    assert after["loss"]["first"] < 0.9 * before["loss"]["first"]


def test_what_cannot_be_had_here_is_told_and_done_otherwise(
    tiny_model: Path, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    made = Trained(tiny_model, train, tmp_path / "run", trainer_mode="qlora", bf16=True, max_steps=1)
    result = made.run()
    assert result["trainer_mode"] == "lora"
    assert [said.partition(":")[0] for said in made.warnings] == ["trainer_mode is lora", "it computes in float32"]
    assert "pip install -e '.[qlora]'" in made.warnings[0]


def test_an_adapter_on_a_base_of_4_bits_is_trained_on_a_cpu_as_well(tiny_model: Path, train: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="trainer mode qlora needs bitsandbytes")
    made = Trained(tiny_model, train, tmp_path / "run", trainer_mode="qlora", max_steps=6, warmup_ratio=0.0, schedule="constant")
    result = made.run()
    assert (result["trainer_mode"], result["device"], made.warnings) == ("qlora", "cpu", [])
    assert result["loss"]["last"] < result["loss"]["first"]
    found = model_folder.read(Path(result["folder"]))
    assert isinstance(found, AdapterFolder)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"parallelism": {"fsdp": True}}, "sharding is none: it trains on one device; parallelism.fsdp was asked for"),
        ({"parallelism": {"deepspeed_stage": 3}}, "it trains on one device; parallelism.deepspeed_stage was asked for"),
    ],
)
def test_a_wish_for_weights_that_are_dealt_out_is_no_more_than_that(
    tiny_model: Path, train: Path, tmp_path: Path, table: dict[str, Any], said: str
) -> None:
    made = Trained(tiny_model, train, tmp_path / "run", max_steps=1, **table)
    result = made.run()
    assert result["sharding"] == "none"
    assert [said in warning for warning in made.warnings] == [True]


def test_what_asks_for_it_in_so_many_words_is_refused_on_one_device(tiny_model: Path, train: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"this trainer trains on one; give it more \(SYNTHQ_TRAINER_DEVICES\)"):
        Trained(tiny_model, train, tmp_path / "run", max_steps=1, sharding="fsdp").run()


def test_lines_are_kept_apart_by_seed_for_trying(tiny_model: Path, train: Path, tmp_path: Path) -> None:
    made = Trained(tiny_model, train, tmp_path / "run", max_steps=1, validation={"fraction": 0.25})
    result = made.run()
    assert (result["samples"], result["validation"]["samples"]) == (18, 6)


def test_lines_that_are_too_long_are_left_out_by_an_explicit_key_alone(tiny_model: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "t.jsonl", [*lines(6), line("tree " * 300, "noop")])
    with pytest.raises(BadDataset, match=r"t\.jsonl:7: it is \d+ tokens, and sequence_length is 64"):
        Trained(tiny_model, file, tmp_path / "one", sequence_length=64, max_steps=1).run()
    made = Trained(tiny_model, file, tmp_path / "other", sequence_length=64, too_long="drop", max_steps=1)
    assert made.run()["samples_left_out"] == 1
    assert made.warnings == ["1 of 7 samples of t.jsonl are longer than sequence_length and are left out"]


def test_lines_without_pictures_are_refused_where_pictures_were_wanted(tiny_model: Path, train: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"supports_vision = true, and no line of train\.jsonl shows a picture"):
        Trained(tiny_model, train, tmp_path / "run", supports_vision=True).run()


def test_how_samples_are_cut_into_passes_does_not_matter(tiny_model: Path, train: Path, tmp_path: Path) -> None:
    small = Trained(tiny_model, train, tmp_path / "small", max_steps=3, tokens_per_pass=64)
    large = Trained(tiny_model, train, tmp_path / "large", max_steps=3)
    small.run()
    large.run()
    for step, row in large.rows("train").items():
        assert small.rows("train")[step]["loss"] == pytest.approx(row["loss"], rel=1e-4)
        assert small.rows("train")[step]["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-3)
