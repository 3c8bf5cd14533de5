"""Loggers: each library that is installed gets the figures, and none of them can hold up or end a training."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from core.kit import claim, job_events, submit_noop, until
from trainer import logger_kinds
from trainer.logger_kinds import GO_ON, TOLD

from app.specs.training import LoggersTable
from app.store import metrics
from workers.rollout import report_rl
from workers.runner import StepContext
from workers.trainer import loggers
from workers.trainer.loggers import LOGGERS, Loggers, Run
from workers.trainer.rl import step

KINDS = ("Keeps", "CannotBegin", "NotInstalled", "Breaks", "Hangs")


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The loggers of the tests, in place of the real ones."""
    mine = {name: (f"{logger_kinds.__name__}:{name}", "no-such-logger") for name in KINDS}
    monkeypatch.setattr(loggers, "LOGGERS", mine)
    TOLD.clear()
    GO_ON.clear()
    yield
    GO_ON.set()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    spec = {"kind": "sft", "sft": {"data": "lines", "learning_rate": 1e-4, "name": None}}
    return Run(job="job_7x3k", name="try", project="synthq", folder=tmp_path / "loggers", spec=spec)


def train(run: Run, *names: str, points: int = 3, first: int = 0) -> list[str]:
    """Tell loggers of a few points; give what they were warned of."""
    warnings: list[str] = []
    with Loggers(names, run, warnings.append, wait_s=20.0) as told:
        for index in range(first, first + points):
            told.log("train", index, {"loss": 1 / (index + 1), "none": None, "nan": math.nan})
        told.log("val", first, {"loss": 2.0})
    return warnings


# -- whatever a logger does --------------------------------------------------------------------------------------------------


def test_a_logger_gets_every_finite_figure_in_order_and_is_closed(kinds: None, run: Run) -> None:
    assert train(run, "Keeps", points=2) == []
    assert TOLD == [
        "job_7x3k",
        ("train", 0, {"loss": 1.0}),
        ("train", 1, {"loss": 0.5}),
        ("val", 0, {"loss": 2.0}),
        "closed",
    ]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("CannotBegin", "ConnectionError: nobody answers for synthq"),
        ("NotInstalled", "it cannot be imported (No module named 'no_such_logger'); `pip install no-such-logger`"),
        ("Breaks", "RuntimeError: no room for train 0"),
    ],
)
def test_one_that_breaks_is_told_of_once_and_the_others_go_on(kinds: None, run: Run, name: str, why: str) -> None:
    (warning,) = train(run, name, "Keeps", points=50)
    assert f"the logger {name} is told no more: {why}" in warning
    assert TOLD.count(("val", 0, {"loss": 2.0})) == 1
    assert len([each for each in TOLD if isinstance(each, tuple)]) == 51


def test_one_that_hangs_holds_nothing_up_but_a_moment_at_the_end(kinds: None, run: Run) -> None:
    warnings: list[str] = []
    with Loggers(["Hangs"], run, warnings.append, wait_s=0.2) as told:
        for index in range(20_000):
            told.log("train", index, {"loss": 0.0})
    assert len(warnings) == 1
    assert "10,000 points wait for it, and those that come now are dropped" in warnings[0]


def test_one_that_does_not_come_to_an_end_is_left_and_told_of(kinds: None, run: Run) -> None:
    warnings: list[str] = []
    told = Loggers(["Hangs"], run, warnings.append, wait_s=0.2)
    told.log("train", 0, {"loss": 0.0})
    told.log("train", 1, {"loss": 0.0})
    told.close()
    assert [warning for warning in warnings if "has not taken its last points within 0.2 s" in warning] == warnings != []


def test_the_loggers_of_a_step_are_those_of_its_spec_and_warn_in_the_jobs_events(kinds: None, sqlite_store: str) -> None:
    job = submit_noop()
    taken = claim("data")
    context = StepContext(taken)
    table: Any = SimpleNamespace(names=("Breaks",), project="mine")
    context.__dict__["spec"] = SimpleNamespace(name="named", loggers=table)
    with loggers.of(context) as told:
        told.log("train", 0, {"loss": 1.0})
    (event,) = [event for event in job_events(job.id) if event.type == "logger.failed"]
    assert (event.level, event.step_id) == ("warning", taken.step_id)
    assert "no room for train 0" in event.message


def test_evaluations_of_an_rl_job_reach_them_through_the_trainers_steps(kinds: None, sqlite_store: str) -> None:
    """They are scored where episodes are played; what a step tells was scored before it began."""
    assert step.EVALUATIONS == report_rl.SCOPE
    job = submit_noop()
    context = StepContext(claim("data"))
    table: Any = SimpleNamespace(names=("Keeps",), project="mine")
    context.__dict__["spec"] = SimpleNamespace(name="named", loggers=table)
    with context.write() as session:
        for updates in (0, 2, 4):
            metrics.record(session, job.id, report_rl.SCOPE, updates, {"achievements": updates / 10, "crafter_score": None})
    with loggers.of(context) as told:
        for iteration in range(4):
            step._tell_evaluations(context, told, iteration - 1)
        step._tell_evaluations(context, told, 3, 4)
    points = [(scope, updates, {"achievements": updates / 10}) for scope, updates in (("eval", 0), ("eval", 2), ("eval", 4))]
    assert [job.id, *points, "closed"] == TOLD, "each of them once"


def test_the_spec_and_the_loggers_know_the_same_names() -> None:
    assert LoggersTable(**dict.fromkeys(LOGGERS, True)).names == tuple(LOGGERS)
    assert set(LoggersTable.model_fields) == {*LOGGERS, "project"}


# -- the real libraries ------------------------------------------------------------------------------------------------------


def test_tensorboard_reads_the_figures_back(run: Run) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", exc_type=ImportError)
    assert train(run, "tensorboard") == train(run, "tensorboard", first=3) == []
    found = events.EventAccumulator(str(run.folder / "tensorboard" / "synthq" / "try-job_7x3k")).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert losses == [(index, pytest.approx(1 / (index + 1))) for index in range(6)]
    assert sorted(found.Tags()["scalars"]) == ["train/loss", "val/loss"]


def test_mlflow_has_one_run_of_the_job_with_all_its_figures(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking", exc_type=ImportError)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert train(run, "mlflow") == train(run, "mlflow", first=3) == []
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{run.folder / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("synthq").experiment_id])
    assert (found.info.run_name, found.info.status) == ("try", "FINISHED")
    assert found.data.params == {"kind": "sft", "sft.data": "lines", "sft.learning_rate": "0.0001"}
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(index, 1 / (index + 1)) for index in range(6)]


def records(file: bytes) -> Iterator[bytes]:
    """What a small file of wandb holds: LevelDB's log of one block, each record whole behind checksum, length and type."""
    at = 7  # its own header
    while at < len(file):
        _, length, kind = struct.unpack_from("<IHB", file, at)
        assert kind == 1, "a record in parts: the file is longer than a block"
        yield file[at + 7 : at + 7 + length]
        at += 7 + length


def histories(folder: Path) -> list[dict[str, float]]:
    """The rows that a run of wandb which was offline has left, without its own columns."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("wandb/offline-run-*/run-job_7x3k.wandb")
    found = [wandb_internal_pb2.Record.FromString(each) for each in records(file.read_bytes())]
    rows = [each.history.item for each in found if each.WhichOneof("record_type") == "history"]
    read = [{".".join(item.nested_key) or item.key: float(item.value_json) for item in row} for row in rows]
    return [{name: value for name, value in row.items() if not name.startswith("_")} for row in read]


def test_wandb_keeps_the_figures_on_disk_when_it_is_offline(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", exc_type=ImportError)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert train(run, "wandb") == []
    until(lambda: len(histories(run.folder)) == 4, 20, "its own process has written the file")
    assert histories(run.folder) == [
        *({"train/loss": 1 / (index + 1), "train/index": index} for index in range(3)),
        {"val/loss": 2.0, "val/index": 0},
    ]


def test_trackio_keeps_the_figures_of_both_steps_in_one_run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", exc_type=ImportError)
    from trackio.sqlite_storage import SQLiteStorage

    assert train(run, "trackio") == train(run, "trackio", first=3) == []
    assert SQLiteStorage.get_runs("synthq") == ["try-job_7x3k"]
    rows = SQLiteStorage.get_logs("synthq", "try-job_7x3k")
    assert [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row] == [(i, 1 / (i + 1)) for i in range(6)]
