"""Two processes that train together share each step's samples: the figures are those of one, and one of them writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core.kit import use_settings
from sft_kit import Trained, lines, written

from workers.runner import Drain
from workers.trainer.resident import Resident

pytestmark = pytest.mark.slow

pytest.importorskip("torch", reason="processes that train together need the extra 'model'")

TARGET = "workers.trainer.sft.loop:run"


@pytest.fixture
def pair(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Resident]:
    """A child of two processes, on the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with use_settings(SYNTHQ_TRAINER_DEVICES="2"):
        resident = Resident()
        yield resident
        resident.stop()


def test_two_processes_train_as_one_does_and_go_on_where_they_were_stopped(
    pair: Resident, tiny_model: Path, tmp_path: Path
) -> None:
    train = written(tmp_path / "train.jsonl", lines(16))
    table: dict[str, Any] = {"max_steps": 4, "checkpoint_steps": 2, "tokens_per_pass": 64, "validation": {"fraction": 0.25}}
    alone = Trained(tiny_model, train, tmp_path / "alone", **table)
    alone.run()
    both = Trained(tiny_model, train, tmp_path / "both", **table)

    def stop() -> None:
        if any(event.get("scope") == "train" and event["index"] >= 1 for event in both.told):
            raise Drain("enough for now")

    with pair.child() as child, pytest.raises(Drain):
        child.call(TARGET, both.args, on_event=both.told.append, check=stop)
    with pair.child() as child:
        result = child.call(TARGET, both.args, on_event=both.told.append)
    assert result["processes"] == 2
    assert result["resumed_at"] > 0
    for scope in ("train", "val"):
        wanted, found = alone.rows(scope), both.rows(scope)
        assert sorted(found) == sorted(wanted)
        for step, row in wanted.items():
            assert found[step]["loss"] == pytest.approx(row["loss"], rel=1e-4)
            assert found[step]["accuracy"] == pytest.approx(row["accuracy"])
