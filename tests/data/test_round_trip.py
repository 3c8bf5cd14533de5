"""Exported lines: read back they are the play, the check takes them, and other programs can load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flow import bytes_of, eval_tables, filter_tables, run_spec

from app.dataset import Options, Summary, check
from app.models import Job
from benchmarks import bench_roundtrip

FORMATS = bench_roundtrip.FORMATS


def exported(job: Job) -> bytes:
    made = run_spec(filter_tables(jobs=[job.id], include_images=job.spec["eval"]["policy_config"]["use_vision"]))
    assert made.state == "succeeded", made.reason
    return bytes_of(made, "dataset")


def play(reply_format: str, **more: Any) -> Job:
    options = {"random": {"actions_per_turn": bench_roundtrip.ACTIONS_A_TURN}}
    job = run_spec(eval_tables(reply_format=reply_format, policy_options=options, **more))
    assert job.state == "succeeded", job.reason
    return job


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("reply_format", FORMATS)
def test_a_line_through_template_and_parser_is_the_turn_that_was_played(reply_format: str) -> None:
    job = play(reply_format)

    result = bench_roundtrip.compare(exported(job), job)

    assert result.faults == []
    assert (result.lines, result.images) == (48, 48)
    assert result.several >= 20


@pytest.mark.usefixtures("store")
def test_the_comparison_sees_a_reply_that_was_changed() -> None:
    """What would tell nothing when an action is swapped, a picture is lost or a call becomes words would prove nothing."""
    job = play("tool_call", seeds="0", policies=["random"], max_turns=3)
    lines = [json.loads(line) for line in exported(job).splitlines()]
    call = lines[0]["messages"][-1]["tool_calls"][0]["function"]
    call["arguments"] = json.dumps({"actions": ["noop"] * bench_roundtrip.ACTIONS_A_TURN})
    lines[1]["messages"][-1].update(content=lines[1]["messages"][-1].pop("tool_calls")[0]["function"]["arguments"])
    lines[2]["messages"][-1]["tool_calls"][0]["function"]["arguments"] += " "  # the same actions in other words

    faults = bench_roundtrip.compare(b"\n".join(json.dumps(line).encode() for line in lines), job).faults

    told = "\n".join(faults)
    assert "line 1: its actions are" in told
    assert "line 2: its outcome is no_tool_call" in told
    assert "line 3: the reply is not the stored one" in told


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("reply_format", FORMATS)
@pytest.mark.parametrize("policy_config", [{}, {"use_vision": False}, {"image_only_mode": True, "rules": "none"}])
@pytest.mark.parametrize("format", ["synthq", "openai"])
def test_the_check_finds_nothing_wrong_with_an_export(reply_format: str, policy_config: dict[str, Any], format: Any) -> None:
    data = exported(play(reply_format, seeds="0", max_turns=6, policy_config=policy_config))
    summary = Summary()

    assert list(check(data.splitlines(keepends=True), Options(format=format, max_images=1), summary)) == []
    assert summary.replies == summary.lines == 12
    assert summary.outcomes == {"ok": 12}
    assert summary.images == (0 if policy_config.get("use_vision") is False else 12)
    assert summary.calls == ({"interact_many": 12} if reply_format == "tool_call" else {})


@pytest.mark.usefixtures("store")
def test_an_export_loads_with_hugging_face_datasets_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of both formats, with and without pictures, in one file."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    jobs = [
        play("tool_call", max_turns=4),
        play("text", max_turns=4),
        play("tool_call", max_turns=4, policy_config={"use_vision": False}),
    ]
    data = b"".join(exported(job) for job in jobs)
    file = tmp_path / "mixed.jsonl"
    file.write_bytes(data)

    loaded = datasets.load_dataset("json", data_files=str(file), cache_dir=str(tmp_path / "cache"), split="train")

    lines = [json.loads(line) for line in data.splitlines()]
    assert len(loaded) == len(lines) == 48
    for row, line in zip(loaded, lines, strict=True):
        assert row["messages"] == line["messages"]
        assert row["tools"] == line.get("tools")
        assert row["metadata"] == line["metadata"]


@pytest.mark.usefixtures("store")
def test_an_export_loads_whatever_its_first_lines_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader takes its columns from the first block; here a block is a line or two, and what comes later is new to it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    data = exported(play("tool_call", max_turns=40)) + exported(play("tool_call", max_turns=4, task_id="late"))
    file = tmp_path / "lines.jsonl"
    file.write_bytes(data)

    options = {"cache_dir": str(tmp_path / "cache"), "split": "train", "chunksize": 8192}
    loaded = datasets.load_dataset("json", data_files=str(file), **options)

    about = [json.loads(line)["metadata"] for line in data.splitlines()]
    for row, one in zip(loaded, about, strict=True):
        to_go = one.pop("return_to_go")
        assert row["metadata"].pop("return_to_go") == pytest.approx(to_go), "the reader keeps ten decimals of some columns"
        assert row["metadata"] == one
    assert about[0]["unlocked"] == ""
    assert any(each["unlocked"] for each in about)
    assert about[-1]["task_id"] == "late"
