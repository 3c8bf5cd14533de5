"""The files of a filter: two sides that share no seed, a manifest and figures that fit them, and the expert's word in place."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
from flow import bytes_of, eval_tables, filter_tables, job_of, run_spec
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import col, select, update
from test_export import ACTIONS, episodes, keep, lines_of, spoil, turns, why

from app import artifacts, db
from app.models import Artifact, Episode, Job, TurnRow
from app.records import Outcome
from app.specs.filter import SplitTable
from workers.rollout import actions, prompts
from workers.rollout.export.split import apart
from workers.rollout.selection import Candidate


def by_name(job: Job) -> dict[str, bytes]:
    """Every file that a job made."""
    assert job.state == "succeeded", job.reason
    with db.reading() as session:
        return {row.name: artifacts.read_artifact(row) for row in session.exec(select(Artifact).where(Artifact.job_id == job.id))}


def metadata(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line)["metadata"] for line in content.splitlines()]


def candidate(seed: int, unlocked: int = 0, policy: str = "random") -> Candidate:
    values: dict[str, Any] = dict.fromkeys(Candidate.__dataclass_fields__)
    return Candidate(**{**values, "seed": seed, "unlocked": unlocked, "policy": policy})


@pytest.mark.usefixtures("mixed")
def test_a_split_keeps_whole_seeds_apart_and_loses_no_line() -> None:
    job = run_spec(filter_tables(split={"enabled": True, "val_fraction": 0.4, "train_file": "a.jsonl", "val_file": "b.jsonl"}))
    made = by_name(job)
    train, val = metadata(made["a.jsonl"]), metadata(made["b.jsonl"])
    assert {line["seed"] for line in val}.isdisjoint({line["seed"] for line in train})
    assert len({line["seed"] for line in val}) == 2
    every = [line["metadata"] for line in keep()]
    assert sorted(train + val, key=str) == sorted(every, key=str)
    assert job.summary is not None
    told = {file["name"]: file for file in job.summary["files"] if "lines" in file}
    assert {name: (file["lines"], file["side"]) for name, file in told.items()} == {
        "a.jsonl": (len(train), "train"),
        "b.jsonl": (len(val), "val"),
    }


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 2**31 - 1), st.sampled_from(["achievements", "policy", "none"]))
def test_the_sides_are_as_near_to_the_fraction_as_can_be_and_neither_is_empty(n: int, share: float, seed: int, by: Any) -> None:
    table = SplitTable(enabled=True, val_fraction=share, seed=seed, stratify_by=by)
    used = [candidate(i // 2 * 3, unlocked=i % 7) for i in range(2 * n)]
    held = apart(used, table)
    assert len(held) == min(n - 1, max(1, round(share * n)))
    assert held <= {episode.seed for episode in used}
    assert held == apart(list(reversed(used)), table)


def test_another_seed_keeps_other_seeds_apart() -> None:
    used = [candidate(i) for i in range(40)]
    chosen = {apart(used, SplitTable(enabled=True, seed=seed)) for seed in range(20)}
    assert len(chosen) > 15


@pytest.mark.parametrize("seed", range(5))
def test_both_sides_have_good_and_bad_seeds_alike(seed: int) -> None:
    used = [candidate(i, unlocked=i * 7 % 20) for i in range(20)]
    held = apart(used, SplitTable(enabled=True, val_fraction=0.25, seed=seed))
    sides = [[e.unlocked for e in used if (e.seed in held) is side] for side in (True, False)]
    assert abs(fmean(sides[0]) - fmean(sides[1])) < 3.4
    assert [sum(low <= unlocked < low + 4 for unlocked in sides[0]) for low in range(0, 20, 4)] == [1] * 5


def test_one_seed_cannot_be_split(mixed: Job) -> None:
    assert why(jobs=[mixed.id], seeds="4", split={"enabled": True}) == (
        "split.enabled keeps seeds apart, and every line is of seed 4; two seeds are the least"
    )


@pytest.mark.usefixtures("mixed")
def test_manifest_stats_and_ids_tell_of_the_lines() -> None:
    table = {"split": {"enabled": True}, "save_episode_ids": True, "stats_file": "figures.json", "shuffle": True, "limit": 400}
    job = run_spec({**filter_tables(**table), "name": "whole"})
    made = by_name(job)
    assert set(made) == {"train.jsonl", "val.jsonl", "figures.json", "episode_ids.txt", "whole.manifest.json"}
    manifest, stats = json.loads(made["whole.manifest.json"]), json.loads(made["figures.json"])
    lines = [*metadata(made["train.jsonl"]), *metadata(made["val.jsonl"])]
    assert manifest["synthq"] == version("synthq")
    assert manifest["spec_sha256"] == job.spec_sha256 == stats["spec_sha256"]
    for file in manifest["files"]:
        assert file["sha256"] == hashlib.sha256(made[file["name"]]).hexdigest()
        assert file["bytes"] == len(made[file["name"]])
    used = {line["episode"] for line in lines}
    ids = made["episode_ids.txt"].decode().split()
    assert set(ids) == used == {row["episode"] for row in manifest["made_from"]}
    assert len(ids) == len(used) == manifest["episodes"]["kept"]
    for row in manifest["made_from"]:
        assert row["lines"] == sum(line["episode"] == row["episode"] for line in lines)
        assert row["side"] == ("train" if row["seed"] in {line["seed"] for line in metadata(made["train.jsonl"])} else "val")
    assert stats["lines"] == len(lines) == 400 == sum(stats["policies"].values()) == sum(stats["seeds"].values())
    assert stats["policies"] == {
        name: sum(line["policy"] == name for line in lines) for name in sorted({e.policy for e in episodes()})
    }
    unlocked = [name for line in lines for name in line["unlocked"].split()]
    assert {name: row["unlocked"] for name, row in stats["achievements"].items() if row["unlocked"]} == {
        name: unlocked.count(name) for name in unlocked
    }
    assert all(row["led_to"] >= row["unlocked"] for row in stats["achievements"].values())
    assert sum(stats["reward"]["lines"]) == sum(stats["return_to_go"]["lines"]) == 400
    assert stats["reward"]["mean"] == pytest.approx(fmean(line["reward"] for line in lines), abs=1e-5)
    assert stats["images"] == 400
    assert stats["removed"] == manifest["removed"]


@pytest.mark.usefixtures("mixed")
def test_every_file_is_the_same_bytes_again() -> None:
    table = filter_tables(
        split={"enabled": True}, sample={"by": "reward"}, shuffle=True, deduplicate=True, save_episode_ids=True, offset=3
    )
    assert by_name(run_spec(table)) == by_name(run_spec(table))


@pytest.mark.usefixtures("mixed")
def test_no_stats_file_where_none_is_wanted() -> None:
    assert set(by_name(run_spec(filter_tables(save_stats=False)))) == {"dataset.jsonl", "dataset.manifest.json"}


@pytest.mark.usefixtures("mixed")
def test_lines_without_metadata_are_the_lines_without_metadata() -> None:
    plain = keep()
    assert keep(include_metadata=False) == [{key: line[key] for key in ("messages", "tools")} for line in plain]
    assert {tuple(line["metadata"]) for line in plain} == {tuple(plain[0]["metadata"])}, "the same keys in the same order"


@pytest.mark.usefixtures("store")
def test_lines_of_two_reply_formats_have_the_same_columns() -> None:
    for reply_format in ("tool_call", "text"):
        run_spec(eval_tables(reply_format=reply_format, policies="random", seeds="0", max_turns=3))
    lines = keep()
    assert {tuple(line) for line in lines} == {("messages", "tools", "metadata")}
    assert [line["tools"] is None for line in lines] == [False] * 3 + [True] * 3


@pytest.mark.usefixtures("mixed")
def test_no_line_is_longer_than_it_may_be_and_nothing_is_cut() -> None:
    stats = json.loads(by_name(run_spec(filter_tables()))["filter_stats.json"])
    mean = int(stats["tokens"]["mean"])
    job = run_spec(filter_tables(max_sequence_length=mean))
    lines, every = lines_of(job), keep()
    assert job.summary is not None
    assert 0 < len(lines) == len(every) - job.summary["removed"]["lines"]["max_sequence_length"] < len(every)
    assert [line for line in every if line in lines] == lines
    assert json.loads(by_name(job)["filter_stats.json"])["tokens"]["longest"] <= mean


def test_a_length_that_no_line_has_says_how_near_it_came(mixed: Job) -> None:
    reason = why(jobs=[mixed.id], outcomes_ok_only=False, max_sequence_length=100)
    assert reason.startswith(f"no line is left: max_sequence_length=100 removed all {15 * 60} lines; the shortest has ")


def test_a_bad_picture_is_named_with_its_line_and_file(mixed: Job) -> None:
    table: dict[str, Any] = {"jobs": [mixed.id], "split": {"enabled": True}, "policies": ["random"]}
    val = metadata(by_name(run_spec(filter_tables(**table)))["val.jsonl"])
    line = val[37]
    turn = turns(line["episode"])[line["turn"]]
    spoil(turn, None)
    assert why(**table) == (
        f"line 38 of val.jsonl, turn {turn.index} of episode {turn.episode_id}, shows frame {turn.frame}, and it is not stored"
    )
    read = [about["metadata"]["episode"] for about in keep(**{**table, "include_images": False})].index(line["episode"])
    assert why(**table, deduplicate=True).startswith(f"line {read + turn.index + 1} of those read, turn {turn.index} of episode ")


@pytest.mark.usefixtures("mixed")
def test_a_picture_of_a_line_that_is_not_written_is_no_matter() -> None:
    spoil(turns(episodes()[0].id)[5], None)
    assert len(keep(limit=5)) == 5


def test_a_filter_whose_offset_is_beyond_the_end_says_so(mixed: Job) -> None:
    count = len(keep(jobs=[mixed.id], policies=["random"]))
    assert why(jobs=[mixed.id], policies=["random"], offset=count).endswith(f"offset={count} removed all {count} lines")


def test_the_experts_goal_stands_before_its_call(mixed: Job) -> None:
    lines = keep(jobs=[mixed.id], policies=["scripted"], rationales=True)
    plain = keep(jobs=[mixed.id], policies=["scripted"])
    goals = [turn.reply["notes"]["goal"] for episode in episodes(policy="scripted") for turn in turns(episode.id)]
    assert [line["messages"][-1]["content"] for line in lines] == goals
    for line, before in zip(lines, plain, strict=True):
        assert {**line["messages"][-1], "content": ""} == before["messages"][-1]
        parsed = actions.parse(
            prompts.reply_from_openai(line["messages"][-1]), reply_format="tool_call", actions=ACTIONS, max_actions=8
        )
        assert parsed.outcome is Outcome.OK
    told = why(jobs=[mixed.id], rationales=True)
    assert "rationales = true needs the expert's goal, and turn 0 of episode" in told
    assert "it was played by random" in told


@pytest.mark.usefixtures("store")
def test_a_goal_has_no_room_in_the_text_format() -> None:
    job = run_spec(eval_tables(reply_format="text", policies="scripted", seeds="0", max_turns=3))
    assert why(jobs=[job.id], rationales=True).startswith(f"rationales = true puts words before a tool call, and job {job.id}")


def test_the_experts_own_play_relabelled_is_its_own_play(mixed: Job) -> None:
    table: dict[str, Any] = {"jobs": [mixed.id], "policies": ["scripted"]}
    plain, labelled = keep(**table), keep(**table, relabel="scripted:visible")
    assert [line["messages"] for line in labelled] == [line["messages"] for line in plain]
    assert {line["metadata"]["relabelled_by"] for line in labelled} == {"scripted:visible"}
    assert {line["metadata"]["relabelled_by"] for line in plain} == {""}


def test_the_expert_says_what_should_have_been_done_in_states_that_others_reached(mixed: Job) -> None:
    table: dict[str, Any] = {"jobs": [mixed.id], "policies": ["sloppy"], "outcomes_ok_only": False}
    plain = keep(**table)
    lines = keep(**table, relabel="scripted", rationales=True)
    assert [line["messages"][:-1] for line in lines] == [line["messages"][:-1] for line in plain], "the states are the same"
    rows = [turn for episode in episodes(policy="sloppy") for turn in turns(episode.id)]
    assert [line["metadata"]["original_actions"].split() for line in lines] == [turn.actions for turn in rows]
    changed = 0
    for line, turn in zip(lines, rows, strict=True):
        reply = prompts.reply_from_openai(line["messages"][-1])
        parsed = actions.parse(reply, reply_format="tool_call", actions=ACTIONS, max_actions=8)
        assert parsed.outcome is Outcome.OK
        assert reply.text, "the goal"
        changed += list(parsed.actions) != turn.actions
    assert changed > len(rows) / 2


def test_play_that_comes_out_otherwise_is_not_relabelled(mixed: Job) -> None:
    turn = turns(episodes(policy="random", seed=1)[0].id)[20]
    with db.writing() as session:
        session.exec(
            update(TurnRow)
            .where(col(TurnRow.episode_id) == turn.episode_id, col(TurnRow.index) < 20)
            .values(actions=["place_stone"])
        )
    reason = why(jobs=[mixed.id], policies=["random"], seeds="1", relabel="scripted")
    assert reason.startswith(f"relabel plays episode {turn.episode_id} again, and it comes out otherwise: turn ")


def test_lines_carry_the_split_and_the_task_of_their_episode(mixed: Job) -> None:
    with db.writing() as session:
        session.exec(update(Episode).where(col(Episode.seed) == 1).values(split="test", task_id="survive"))
    found = {(line["seed"], line["split"], line["task_id"]) for line in metadata(bytes_of(run_spec(filter_tables()), "dataset"))}
    assert found == {(seed, *(("test", "survive") if seed == 1 else ("train", ""))) for seed in (0, 1, 2, 4, 5)}
    assert job_of(mixed.id).state == "succeeded"


def test_lines_that_the_disk_has_no_room_for_are_not_begun(mixed: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    assert "bytes, and" in (reason := why(jobs=[mixed.id]))
    assert "has 100 left; ask for fewer, or make room" in reason
