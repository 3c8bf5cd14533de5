"""A whole sft job: submitted, trained by the worker's child, stored with where it comes from, and ready to be played."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from core.kit import job, job_events
from PIL import Image
from sft_kit import line, lines, written

from app import artifacts, claims, db, lifecycle, model_refs, runs, specs, training_refs, uploads
from app.errors import SpecProblems
from app.models import Artifact, Job, Queue
from app.store import jobs, metrics
from workers import runner
from workers.tasks import STEPS
from workers.trainer.resident import Resident, keeper

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("sqlite_store")


@pytest.fixture
def resident(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resident]:
    """What a trainer worker looks after; its child ends with the test."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    own = Resident()
    monkeypatch.setattr(keeper, "_own", own)
    own.start()
    yield own
    own.stop()


def uploaded(path: Path) -> Artifact:
    """A file of lines as the server keeps it."""
    content = path.read_bytes()
    upload = uploads.begin(name=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest(), submitted_by=None)
    uploads.add(upload, 0, content)
    return uploads.finish(upload)


def submitted(model: Path, data: str, **table: Any) -> Job:
    """A job that is ready to be claimed."""
    asked = {"model": str(model), "data": data, "batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 3, **table}
    spec = specs.build({"name": "imitate", "sft": asked}, env={})
    training_refs.check(spec)
    with db.writing() as session:
        return lifecycle.submit(session, kind="sft", spec=specs.resolved(spec), spec_sha256=specs.sha256(spec), name=spec.name)


def worked(made: Job) -> Job:
    """The job after a trainer worker had its turn."""
    claim = claims.claim(Queue.TRAINER, owner=runner.worker_id())
    assert claim is not None
    assert claim.job_id == made.id
    runner.run_claim(claim, STEPS)
    return job(made.id)


@pytest.mark.usefixtures("resident")
def test_what_is_trained_is_stored_with_its_lineage_and_can_be_played_and_gone_on_with(tiny_model: Path, tmp_path: Path) -> None:
    data = uploaded(written(tmp_path / "train.jsonl", lines(12)))
    first = worked(submitted(tiny_model, data.id, trainer_mode="full", validation={"fraction": 0.25}))
    assert first.state == "succeeded", first.reason
    assert first.summary is not None
    with db.reading() as session:
        [model] = jobs.artifacts(session, first)
        points = {scope.scope: scope.last for scope in metrics.scopes(session, first.id)}
        assert model_refs.resolve(session, model.id).base == str(artifacts.folder_of(model))
    assert (model.kind, model.id, model.parents) == ("model", first.summary["artifact"], [data.job_id])
    assert model.data["data"] == [{"artifact": data.id, "sha256": data.sha256}]
    assert points == {"train": 3, "val": 3}
    assert not runs.folder(first.id).exists()

    second = worked(submitted(tiny_model, data.id, warmstart_from=first.id, trainer_mode="qlora"))
    assert second.state == "succeeded", second.reason
    with db.reading() as session:
        [adapter] = jobs.artifacts(session, second)
        found = model_refs.resolve(session, adapter.id)
    assert (adapter.kind, adapter.parents) == ("adapter", sorted({first.id, data.job_id}))
    assert found.base == str(artifacts.folder_of(model))
    told = [event.message for event in job_events(second.id) if event.type == "sft.warning"]
    instead = any("trainer_mode is lora: qlora needs" in message for message in told)
    assert instead == (find_spec("bitsandbytes") is None)
    said = next(event.message for event in job_events(second.id) if event.type == "log")
    assert said.endswith("the adapter is on q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj of the language model")


@pytest.mark.usefixtures("resident")
def test_lines_that_the_spec_does_not_take_end_the_job_with_their_numbers(tiny_model: Path, tmp_path: Path) -> None:
    data = uploaded(written(tmp_path / "train.jsonl", [*lines(2), line("tree " * 300, "noop")]))
    made = worked(submitted(tiny_model, data.id, sequence_length=64))
    assert made.state == "failed"
    assert made.reason is not None
    assert "train.jsonl:3: it is" in made.reason
    assert "sequence_length is 64" in made.reason


def test_pictures_where_none_may_be_end_the_job_before_anything_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    png = BytesIO()
    Image.new("RGB", (63, 63), "green").save(png, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    seen = line("tree", "noop")
    seen["messages"][0]["content"] = [{"type": "image_url", "image_url": {"url": url}}]
    data = uploaded(written(tmp_path / "train.jsonl", [line("tree", "noop"), seen]))
    made = worked(submitted(tiny_model, data.id, supports_vision=False))
    assert made.state == "failed"
    assert made.reason is not None
    assert "train.jsonl:2: messages[0].content: holds 1 images; max_images_per_message is 0" in made.reason


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        ({"data": "art_000000000000"}, "sft.data", "no artifact matches"),
        ({"data": "job_gone"}, "sft.data", "no job matches"),
        ({"data": "@last"}, "sft.data", "write the job's id or its name"),
        ({"model": "/nowhere"}, "sft.model", "there is no folder '/nowhere'"),
        ({"warmstart_from": "/nowhere"}, "sft.warmstart_from", "there is no folder '/nowhere'"),
        ({"warmstart_from": "nobody"}, "sft.warmstart_from", "no job matches 'nobody'"),
        ({"validation": {"data": "job_gone"}}, "sft.validation.data", "no job matches"),
    ],
)
def test_names_that_mean_nothing_are_refused_at_submit(
    table: dict[str, Any], key: str, said: str, tiny_model: Path, tmp_path: Path
) -> None:
    data = uploaded(written(tmp_path / "train.jsonl", lines(2)))
    with pytest.raises(SpecProblems) as caught:
        submitted(**{"model": tiny_model, "data": data.id, **table})
    [problem] = caught.value.problems
    assert problem.key == key
    assert said in problem.message


def test_an_adapter_is_no_beginning_for_a_whole_model_and_fits_its_own_base_alone(tiny_model: Path, tmp_path: Path) -> None:
    from trainer.learner_kit import learner

    adapter, other = tmp_path / "adapter", tmp_path / "other"
    learner(tiny_model).export(adapter)
    data = uploaded(written(tmp_path / "train.jsonl", lines(2)))
    with pytest.raises(SpecProblems, match='is an adapter, and trainer_mode = "full" trains a whole model'):
        submitted(tiny_model, data.id, warmstart_from=str(adapter), trainer_mode="full")
    learner(tiny_model, mode="full").export(other)
    with pytest.raises(SpecProblems, match=f"is an adapter on {tiny_model}, and the model is {other}"):
        submitted(other, data.id, warmstart_from=str(adapter))
    with db.reading() as session:
        begin = training_refs.start(session, model=str(adapter), warm=None)
    assert (begin.base, begin.adapter) == (str(tiny_model), str(adapter))
