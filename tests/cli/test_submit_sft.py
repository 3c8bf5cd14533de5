"""`submit sft`: lines that are sent from here or that the server has, and every way in which they cannot be learnt from."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from console import Ran, Synthq, row
from core.kit import use_settings, work_through

from app import db, training_refs, uploads
from app.artifacts import read_artifact
from app.models import Artifact, Job
from app.settings import get_settings
from app.store import jobs
from cli import trained

MODEL = "Qwen/Qwen3-VL-4B-Instruct"
SMALL = ("--seeds", "0-1", "--set", "eval.max_turns=4", "--set", "eval.env_config.length=40")


def line(said: str = "noop", **more: Any) -> str:
    messages = [{"role": "user", "content": "tree"}, {"role": "assistant", "content": said}]
    return json.dumps({"messages": messages, **more}) + "\n"


@pytest.fixture
def file(home: Path) -> Path:
    """A file of lines in the present folder."""
    made = Path("train.jsonl")
    made.write_text("".join(line(f"said {i}") for i in range(5)))
    return made


def sft(synthq: Synthq, data: object, *flags: str) -> Ran:
    return synthq("submit", "sft", "--model", MODEL, "--data", str(data), *flags)


def data_of(ran: Ran) -> tuple[Job, Artifact]:
    """The job that was made, and the lines that it learns from."""
    assert ran.code == 0, ran.err
    job = row(ran.job_id)
    with db.reading() as session:
        return job, training_refs.dataset(session, job.spec["sft"]["data"]).train


def kinds() -> list[str]:
    """Kinds of the jobs there are."""
    with db.reading() as session:
        return sorted(job.kind for job in jobs.page(session)[0])


def test_a_file_becomes_a_dataset_of_a_job_of_its_own(served: Synthq, file: Path) -> None:
    job, lines = data_of(sft(served, file))
    assert (lines.kind, lines.name, lines.sha256) == ("dataset", "train.jsonl", hashlib.sha256(file.read_bytes()).hexdigest())
    assert read_artifact(lines) == file.read_bytes()
    made = row(lines.job_id)
    assert (made.kind, made.state, made.summary["lines"]) == ("upload", "succeeded", 5)  # type: ignore[index]
    assert job.spec["sft"]["data"] == lines.id
    assert list((get_settings().home / "uploads").iterdir()) == []


def test_a_file_of_many_pieces_comes_whole(served: Synthq, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.routes.uploads.PIECE_BYTES", 100)
    _, lines = data_of(sft(served, file))
    assert read_artifact(lines) == file.read_bytes()


def test_a_file_that_is_there_already_is_not_sent_again(served: Synthq, file: Path) -> None:
    _, first = data_of(sft(served, file))
    again = sft(served, file)
    assert "is on the server already" in again.err
    assert data_of(again)[1].id == first.id
    assert kinds() == ["sft", "sft", "upload"]


def test_bad_lines_are_told_by_number_and_nothing_is_sent(served: Synthq, file: Path) -> None:
    file.write_text(line() + line("") + '{"messages": []}\n' + "nonsense\n")
    ran = sft(served, file)
    assert ran.code == 2
    told = [part for part in ran.err.splitlines() if "train.jsonl:" in part]
    assert [part.strip().split(":")[1] for part in told] == ["2", "3", "4"]
    assert kinds() == []


def test_of_many_bad_lines_the_first_twenty_are_told_and_the_others_counted(served: Synthq, file: Path) -> None:
    file.write_text(line("") * 30)
    ran = sft(served, file)
    assert ran.err.count("train.jsonl:") == 20
    assert ran.err.rstrip().endswith("and 10 more")


def test_the_server_looks_at_lines_itself(served: Synthq, file: Path) -> None:
    bad = line("") * 3
    upload = uploads.begin(name="x.jsonl", size=len(bad), sha256=hashlib.sha256(bad.encode()).hexdigest(), submitted_by=None)
    uploads.add(upload, 0, bad.encode())
    from app.errors import BadDataset

    with pytest.raises(BadDataset, match=r"3 problems in 3 lines:\n  x\.jsonl:1: "):
        uploads.finish(upload)
    assert not upload.part.exists()


def test_a_bad_spec_is_told_before_anything_is_sent(served: Synthq, file: Path) -> None:
    ran = sft(served, file, "--set", "sft.epoch=3")
    assert ran.code == 2
    assert "did you mean 'epochs'?" in ran.err
    assert kinds() == []


def test_a_file_that_is_too_large_is_refused_with_the_setting(served: Synthq, file: Path) -> None:
    with use_settings(SYNTHQ_UPLOAD_BYTES="100"):
        ran = sft(served, file)
    assert ran.code == 2
    assert "the server takes files of 100 at most (SYNTHQ_UPLOAD_BYTES)" in ran.err


@pytest.mark.parametrize("name", ["nothing.jsonl", "./nothing", "traces/nothing"])
def test_a_file_that_is_not_there_is_told(served: Synthq, name: str) -> None:
    ran = sft(served, name)
    assert (ran.code, ran.err) == (
        2,
        f"Error: there is no file {name} for --data; it takes a JSONL file, a job, or the id of an artifact\n",
    )


def test_a_filter_job_gives_both_of_its_files(served: Synthq) -> None:
    played = served("submit", "eval", *SMALL).job_id
    work_through()
    made = served("submit", "filter", "--job", played, "--name", "lines", "--set", "filter.split.enabled=true").job_id
    work_through()
    job, train = data_of(sft(served, "lines"))
    assert (job.spec["sft"]["data"], job.after) == (made, [])
    with db.reading() as session:
        val = training_refs.dataset(session, made).val
    assert (train.data["side"], val.data["side"] if val else None) == ("train", "val")


def test_a_training_waits_for_a_filter_that_is_not_done(served: Synthq) -> None:
    played = served("submit", "eval", *SMALL).job_id
    work_through()
    made = served("submit", "filter", "--job", played).job_id
    ran = sft(served, made)
    assert row(ran.job_id).after == [{"job": made, "on": "ok"}]


def test_a_job_that_makes_no_lines_is_refused_with_the_way_to_lines(served: Synthq) -> None:
    played = served("submit", "eval", *SMALL).job_id
    ran = sft(served, played)
    assert ran.code == 2
    assert f"sft.data: job {played} is of the kind eval, which makes no lines; `synthq submit filter --job {played}`" in ran.err


def test_a_model_that_is_none_is_refused(served: Synthq, file: Path) -> None:
    Path("empty").mkdir()
    ran = served("submit", "sft", "--model", "empty", "--data", str(file))
    assert ran.code == 2
    assert "sft.model: " in ran.err
    assert "it has neither config.json" in ran.err


def test_a_report_is_no_dataset(served: Synthq) -> None:
    played = served("submit", "eval", *SMALL).job_id
    work_through()
    with db.reading() as session:
        report = next(row.id for row in jobs.artifacts(session, jobs.find(session, played)))
    assert f"artifact {report} of job {played} is a report, and no dataset" in sft(served, report).err


def test_a_dry_run_tells_what_it_would_come_to_and_sends_nothing(served: Synthq, file: Path) -> None:
    ran = sft(served, file, "--dry-run", "--set", "sft.epochs=4", "--set", "sft.batch_size=2")
    assert ran.code == 0
    assert "train.jsonl (5 lines, 0 images, " in ran.err
    assert "steps: about 4, of 8 samples each: 5 lines, 4 times" in ran.err
    assert "model: 4.4 billion parameters (the published sizes of Qwen/Qwen3-VL-4B-Instruct)" in ran.err
    assert "memory of the trainer on a GPU: 9.4 GB, " in ran.err
    assert "weights 8.88 GB, adapter 132 MB, gradients 132 MB, optimizer 264 MB; at the most a pass of 4,096 tokens" in ran.err
    assert "time: not known yet" in ran.err
    assert kinds() == []


def test_a_dry_run_without_a_server_says_who_would_know_more(synthq: Synthq, file: Path) -> None:
    ran = sft(synthq, file, "--dry-run", "--json")
    assert (ran.code, ran.json["estimate"]) == (0, None)
    assert "memory and time: the server tells them, and none answers" in ran.err


def test_a_job_that_was_made_is_told_with_its_memory_and_time(served: Synthq, file: Path) -> None:
    ran = sft(served, file)
    (on_gpu,) = [line for line in ran.err.splitlines() if line.startswith("memory of the trainer on a GPU: ")]
    assert on_gpu.endswith(" at the most beside the program itself"), "its parts are for a dry run"
    assert "time: not known yet" in ran.err
    assert "tokens: " not in ran.err
    quiet = sft(served, file, "--id-only")
    assert "memory" not in quiet.err


def test_flags_of_rl_are_refused(served: Synthq, file: Path) -> None:
    assert "--iterations is read by rl alone" in sft(served, file, "--iterations", "3").err


def test_train_submits_what_the_file_says(served: Synthq, file: Path) -> None:
    Path("seed.toml").write_text(f'[job]\nmodel = "{MODEL}"\ndata = "x.jsonl"\n[hyperparameters]\nn_epochs = 2\n')
    ran = served("train", "--config", "seed.toml", "--data", "train.jsonl", "--examples", "3")
    job, _ = data_of(ran)
    assert (job.kind, job.spec["sft"]["epochs"], job.spec["sft"]["max_lines"], job.source) == ("sft", 2, 3, "seed.toml")


def test_pieces_that_leave_a_gap_are_refused_and_repeated_ones_are_not(home: Path) -> None:
    from app.errors import Conflict, UploadNotFound

    upload = uploads.begin(name="a/b c.jsonl", size=10, sha256="0" * 64, submitted_by=None)
    assert upload.name == "a_b_c.jsonl"
    assert uploads.add(upload, 0, b"12345") == 5
    assert uploads.add(upload, 0, b"12345") == 5
    with pytest.raises(Conflict, match="5 of 10 bytes have come"):
        uploads.add(upload, 6, b"7")
    with pytest.raises(Conflict, match="does not fit"):
        uploads.add(upload, 5, b"1234567")
    with pytest.raises(Conflict, match="5 of 10 bytes have come"):
        uploads.finish(upload)
    assert uploads.find(upload.id, None) == upload
    with pytest.raises(UploadNotFound):
        uploads.find(upload.id, "somebody else")
    assert uploads.add(upload, 5, b"67890") == 10
    with pytest.raises(Conflict, match="came with sha256"):
        uploads.finish(upload)
    with pytest.raises(UploadNotFound):
        uploads.find(upload.id, None)


def test_what_nobody_goes_on_with_is_forgotten_after_a_day(home: Path) -> None:
    old, fresh = (uploads.begin(name="x.jsonl", size=10, sha256="0" * 64, submitted_by=None) for _ in range(2))
    for path in (old.part, old.part.with_suffix(".json")):
        os.utime(path, (time.time() - uploads.KEPT_S - 60,) * 2)
    uploads.begin(name="y.jsonl", size=10, sha256="0" * 64, submitted_by=None)
    assert (old.part.exists(), fresh.part.exists()) == (False, True)


SUMMARY = {
    "artifact": "art_0123456789ab",
    "kind": "adapter",
    "bytes": 537_100,
    "of_step": 12,
    "steps": 16,
    "steps_planned": 20,
    "stopped_early": True,
    "epochs": 1.6,
    "samples": 150,
    "samples_left_out": 3,
    "loss": {"first": 7.0184, "last": 2.0506},
    "validation": {"samples": 30, "best": {"loss": 2.131, "accuracy": 0.9133, "step": 12}, "last": {"loss": 2.2}},
    "trained_parameters": 131_072,
    "trainer_mode": "lora",
    "samples_per_s": 8.769,
    "tokens_per_s": 3118.7,
    "device": "cpu",
    "memory_bytes": 800_000_000,
}


def test_what_a_training_came_to_is_told_in_a_few_lines() -> None:
    assert [" ".join(each.split()) for each in trained.told(SUMMARY)] == [
        "adapter art_0123456789ab, 537.1 kB",
        "steps 16 of 20, stopped early; the model is that of step 12",
        "loss 7.018 at first, 2.051 at last",
        "validation loss 2.131, 91.3 % of tokens right, at step 12, on 30 samples",
        "samples 150, 1.6 times; 3 too long ones were left out",
        "trained 131,072 parameters (lora)",
        "speed 8.769 samples/s, 3,119 tokens/s on cpu",
        "memory 800.0 MB",
    ]
