"""The filter: the lines are the play, byte for byte; whole or absent; and when nothing is left, it says why."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flow import bytes_of, eval_tables, files_of, filter_tables, job_of, run_spec, submit
from sqlmodel import col, select, update

from app import claims, db
from app.errors import LostStep, StepCancelled
from app.models import Artifact, Episode, FrameRow, Job, Queue, Step, TextRow, TurnRow
from app.records import Outcome
from workers.rollout import actions, envs, export, prompts
from workers.rollout.export import maker
from workers.runner import StepContext
from workers.transport import pixels

ACTIONS = envs.make("crafter").actions


def lines_of(job: Job) -> list[dict[str, Any]]:
    assert job.state == "succeeded", job.reason
    return [json.loads(line) for line in bytes_of(job, "dataset").splitlines()]


def keep(**table: Any) -> list[dict[str, Any]]:
    return lines_of(run_spec(filter_tables(**table)))


def why(**table: Any) -> str:
    """The reason of a filter that fails; it must leave nothing behind."""
    job = run_spec(filter_tables(**table))
    assert job.state == "failed"
    assert files_of(job) == {}
    assert job.reason is not None
    return job.reason


def episodes(**where: Any) -> list[Episode]:
    with db.reading() as session:
        query = select(Episode).order_by(col(Episode.seed), col(Episode.member))
        return list(session.exec(query.filter_by(**where)))


def turns(episode_id: str) -> list[TurnRow]:
    with db.reading() as session:
        return list(session.exec(select(TurnRow).where(TurnRow.episode_id == episode_id).order_by(col(TurnRow.index))))


def to_go(episode_id: str, index: int) -> float:
    """The discounted rewards of an episode from a turn on."""
    return sum(turn.reward * 0.99 ** (turn.index - index) for turn in turns(episode_id) if turn.index >= index)


def image_of(line: dict[str, Any]) -> bytes:
    (url,) = [part["image_url"]["url"] for part in line["messages"][1]["content"] if part["type"] == "image_url"]
    assert url.startswith("data:image/png;base64,")
    return base64.b64decode(url.partition(",")[2], validate=True)


def test_a_line_is_the_prompt_that_was_sent_and_the_reply_that_was_given(played: Job) -> None:
    lines = keep(jobs=[played.id])
    rows = [(episode, turn) for episode in episodes() for turn in turns(episode.id)]
    assert len(lines) == len(rows) == 6 * 40
    with db.reading() as session:
        texts = {row.sha256: row.text for row in session.exec(select(TextRow))}
        frames = {row.sha256: row.png for row in session.exec(select(FrameRow))}
    for line, (episode, turn) in zip(lines, rows, strict=True):
        system, user, assistant = line["messages"]
        assert system == {"role": "system", "content": texts[turn.system or ""]}
        assert user["content"][0] == {"type": "text", "text": turn.messages[0]["parts"][0]["text"]}
        assert image_of(line) == frames[turn.frame or ""]
        call = turn.reply["tool_calls"][0]
        assert assistant["tool_calls"][0]["function"] == {"name": call["name"], "arguments": call["arguments"]}
        assert line["tools"] == prompts.tools(ACTIONS, 8)
        assert line["metadata"] == {
            "job": played.id,
            "episode": episode.id,
            "seed": episode.seed,
            "member": episode.member,
            "turn": turn.index,
            "policy": episode.policy,
            "model": "",
            "split": "train",
            "task_id": "",
            "reward": turn.reward,
            "return_to_go": pytest.approx(to_go(episode.id, turn.index)),
            "unlocked": " ".join(turn.unlocked),
            "achievements_total": episode.unlocked,
            "outcome": "ok",
            "relabelled_by": "",
            "original_actions": "",
        }


@pytest.mark.parametrize("reply_format", ["tool_call", "text"])
def test_an_exported_reply_parses_to_the_actions_that_were_played(store: Path, reply_format: Any) -> None:
    job = run_spec(eval_tables(reply_format=reply_format, seeds="0"))
    played = {(e.id, t.index): [*t.actions, *t.dropped] for e in episodes() for t in turns(e.id)}
    for line in keep(jobs=[job.id]):
        reply = prompts.reply_from_openai(line["messages"][-1])
        parsed = actions.parse(reply, reply_format=reply_format, actions=ACTIONS, max_actions=8)
        assert parsed.outcome is Outcome.OK
        assert list(parsed.actions) == played.pop((line["metadata"]["episode"], line["metadata"]["turn"]))
        assert ("tools" in line) == (reply_format == "tool_call")
    assert not played


def test_the_scripted_players_private_notes_are_in_no_line(played: Job) -> None:
    noted = [turn for episode in episodes(policy="scripted") for turn in turns(episode.id) if turn.reply["notes"]]
    assert noted, "the store has them"
    assert not [line for line in keep(jobs=[played.id]) if set(line) - {"messages", "tools", "metadata"}]
    assert b'"notes"' not in bytes_of(job_of("@last"), "dataset")


def test_pictures_are_the_size_that_a_model_is_sent(store: Path) -> None:
    job = run_spec(eval_tables(seeds="0", policies="random", max_turns=3, env_config={"upscale_to": 126}))
    lines = keep(jobs=[job.id])
    with db.reading() as session:
        native = {row.sha256: pixels.decode_png(row.png) for row in session.exec(select(FrameRow))}
    for line, turn in zip(lines, turns(episodes()[0].id), strict=True):
        sent = pixels.decode_png(image_of(line))
        assert sent.shape == (126, 126, 3)
        assert (sent == pixels.upscale(native[turn.frame or ""], 126, tiles=9)).all()


def test_the_same_store_and_spec_give_the_same_bytes(played: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_spec(filter_tables(jobs=[played.id], policies=["scripted"]))
    monkeypatch.setattr(maker, "TURNS_A_FETCH", 7)
    second = run_spec(filter_tables(jobs=[played.id], policies=["scripted"]))
    for kind in ("dataset", "manifest", "stats"):
        assert bytes_of(first, kind) == bytes_of(second, kind)


def test_rows_manifest_and_summary_tell_of_the_same_file(played: Job) -> None:
    job = run_spec(filter_tables(jobs=[played.id], policies=["scripted"], output="out/play.jsonl"))
    made, data = files_of(job), bytes_of(job, "dataset")
    manifest = json.loads(bytes_of(job, "manifest"))
    assert (made["dataset"].name, made["manifest"].name) == ("play.jsonl", "play.manifest.json")
    assert made["dataset"].parents == [played.id]
    sha256 = hashlib.sha256(data).hexdigest()
    assert job.summary is not None
    assert sha256 == made["dataset"].sha256 == manifest["sha256"] == job.summary["sha256"]
    assert job.summary["artifact"] == made["dataset"].id
    assert (job.summary["lines"], job.summary["frames"], job.summary["bytes"]) == (120, 120, len(data))
    assert job.summary["episodes"] == {"seen": 6, "kept": 3}
    assert manifest["removed"] == {"episodes": {"policies": 3}, "turns": {}, "lines": {}}
    assert manifest["spec_sha256"] == job.spec_sha256
    chosen = episodes(policy="scripted")
    assert [(e["episode"], e["sha256"]) for e in manifest["made_from"]] == [(e.id, e.sha256) for e in chosen]


def test_progress_counts_episodes(played: Job) -> None:
    job = run_spec(filter_tables(jobs=[played.id], policies=["random"]))
    with db.reading() as session:
        step = session.exec(select(Step).where(Step.job_id == job.id)).one()
    assert (step.done, step.total) == (3, 3)


def test_without_images_the_text_is_left(played: Job) -> None:
    for line in keep(jobs=[played.id], include_images=False):
        assert isinstance(line["messages"][1]["content"], str)
    assert b"base64" not in bytes_of(job_of("@last"), "dataset")


def test_without_images_nothing_is_left_of_play_from_pictures_alone(store: Path) -> None:
    job = run_spec(eval_tables(seeds="0", policies="random", max_turns=2, policy_config={"image_only_mode": True}))
    assert [part["type"] for part in keep(jobs=[job.id])[0]["messages"][1]["content"]] == ["image_url"]
    reason = why(jobs=[job.id], include_images=False)
    assert reason == "include_images=false removed the only episode; 1 was played from pictures alone (image_only_mode = true)"


def test_an_eval_without_frames_says_what_to_do(store: Path) -> None:
    job = run_spec(eval_tables(seeds="0", policies="random", max_turns=2, save_frames="none"))
    assert 'save_frames = "none"' in why(jobs=[job.id])


def spoil(turn: TurnRow, png: bytes | None, *, named: str | None = None) -> None:
    """Put other bytes in the place of a turn's frame, or none; ``named`` gives them a name that fits."""
    with db.writing() as session:
        row = session.get(FrameRow, turn.frame)
        if png is None:
            session.delete(row)
        elif named is None:
            assert row is not None
            row.png = png
        else:
            session.add(FrameRow(sha256=named, png=png, width=64, height=64))
            messages = json.loads(json.dumps(turn.messages).replace(turn.frame or "", named))
            session.exec(
                update(TurnRow)
                .where(col(TurnRow.episode_id) == turn.episode_id, col(TurnRow.index) == turn.index)
                .values(messages=messages)
            )


def a_turn() -> TurnRow:
    return turns(episodes(policy="random", seed=1)[0].id)[5]


def test_a_missing_frame_fails_the_filter_and_is_named(played: Job) -> None:
    turn = a_turn()
    spoil(turn, None)
    assert (
        why(jobs=[played.id], seeds=[1], policies=["random"])
        == f"line 6, turn 5 of episode {turn.episode_id}, shows frame {turn.frame}, and it is not stored"
    )


def test_a_frame_with_other_bytes_than_its_name_says_fails_the_filter(played: Job) -> None:
    turn = a_turn()
    other = pixels.encode_png(np.zeros((64, 64, 3), "uint8"))
    spoil(turn, other)
    assert f"its stored bytes have sha256 {hashlib.sha256(other).hexdigest()}" in why(jobs=[played.id], seeds=[1])


def test_bytes_that_are_no_picture_fail_the_filter_even_under_their_right_name(played: Job) -> None:
    turn = a_turn()
    with db.reading() as session:
        row = session.get(FrameRow, turn.frame)
    assert row is not None
    for junk in (b"no picture", row.png[:-40]):
        name = hashlib.sha256(junk).hexdigest()
        spoil(turn, junk, named=name)
        turn = a_turn()
        turn.frame = name
        reason = why(jobs=[played.id], seeds=[1], policies=["random"])
        where = f"line 6, turn 5 of episode {turn.episode_id}, shows frame {name}"
        assert reason.startswith(f"{where}, and its stored bytes cannot be read")


def test_a_picture_of_another_size_than_its_row_says_fails_the_filter(played: Job) -> None:
    small = pixels.encode_png(np.zeros((9, 9, 3), "uint8"))
    spoil(a_turn(), small, named=hashlib.sha256(small).hexdigest())
    assert "of 9 x 9 pixels, stored as 64 x 64" in why(jobs=[played.id], seeds=[1])


def test_a_lost_turn_is_noticed(played: Job) -> None:
    turn = a_turn()
    with db.writing() as session:
        session.delete(session.get(TurnRow, (turn.episode_id, turn.index)))
    assert why(jobs=[played.id], seeds=[1]) == f"episode {turn.episode_id} has 40 turns and 39 of them are stored"


def test_each_rule_keeps_what_it_says(played: Job) -> None:
    def kept(**table: Any) -> list[str]:
        return list(dict.fromkeys(line["metadata"]["episode"] for line in keep(jobs=[played.id], **table)))

    every = episodes()
    most = max(e.unlocked for e in every)
    name = next(iter(max(every, key=lambda e: e.unlocked).achievements))
    assert kept() == [e.id for e in every], "by seed, then member"
    assert kept(seeds="1-2") == [e.id for e in every if e.seed in (1, 2)]
    assert kept(policies=["random"]) == [e.id for e in every if e.policy == "random"]
    assert kept(min_achievements=most) == [e.id for e in every if e.unlocked >= most]
    assert kept(max_achievements=1) == [e.id for e in every if e.unlocked <= 1]
    assert kept(min_official_score=0.5) == [e.id for e in every if e.unlocked >= 1]
    assert kept(min_return=1.0) == [e.id for e in every if e.returns["unlocked"] >= 1]
    assert kept(max_return=0.5) == [e.id for e in every if e.returns["unlocked"] <= 0.5]
    assert kept(achievements=[name]) == [e.id for e in every if name in e.achievements]


def test_the_top_share_is_the_best_by_achievements_then_return(played: Job) -> None:
    ranked = sorted(episodes(), key=lambda e: (-e.unlocked, -e.returns["unlocked"], e.seed, e.member))
    job = run_spec(filter_tables(jobs=[played.id], top_share=0.34))
    best = {line["metadata"]["episode"] for line in lines_of(job)}
    assert best == {e.id for e in ranked[:2]}
    assert job.summary is not None
    assert job.summary["removed"]["episodes"] == {"top_share": 4}


def test_the_limit_counts_lines(played: Job) -> None:
    job = run_spec(filter_tables(jobs=[played.id], limit=45))
    full = keep(jobs=[played.id])
    assert lines_of(job) == full[:45]
    assert job.summary is not None
    assert job.summary["episodes"]["kept"] == 2
    assert job.summary["removed"]["lines"] == {"limit": len(full) - 45}


def test_turns_with_unreadable_replies_are_left_out_unless_asked_for(played: Job) -> None:
    turn = a_turn()
    with db.writing() as session:
        row = session.get(TurnRow, (turn.episode_id, turn.index))
        assert row is not None
        row.outcome = "parse_error"
    job = run_spec(filter_tables(jobs=[played.id], seeds=[1], policies=["random"]))
    assert [line["metadata"]["turn"] for line in lines_of(job)] == [i for i in range(40) if i != 5]
    assert job.summary is not None
    assert job.summary["removed"]["turns"] == {"outcomes_ok_only": 1}
    assert len(keep(jobs=[played.id], seeds=[1], policies=["random"], outcomes_ok_only=False)) == 40


def test_only_episodes_that_were_played_to_their_end_are_read(played: Job) -> None:
    with db.writing() as session:
        session.exec(update(Episode).where(col(Episode.policy) == "random").values(state="running"))
    assert {line["metadata"]["policy"] for line in keep(jobs=[played.id])} == {"scripted"}


def test_no_jobs_named_means_the_whole_store_and_names_are_jobs_too(played: Job) -> None:
    run_spec({**eval_tables(seeds="7", policies="random", max_turns=2), "name": "second"})
    assert len(keep()) == 242
    assert len(keep(jobs=["second"])) == 2
    assert len(keep(jobs=[played.id[:10], "second"])) == 242


def test_an_empty_choice_says_which_rule_removed_what_and_how_near_it_came(played: Job) -> None:
    every = episodes()
    most = max(e.unlocked for e in every)
    assert why(jobs=[played.id], min_achievements=21) == f"min_achievements=21 removed all 6 episodes; the most is {most}"
    assert why(jobs=[played.id], max_return=-1.0) == "max_return=-1 removed all 6 episodes; the least is 0"
    assert why(jobs=[played.id], seeds="5,8-9") == "seeds=5,8-9 removed all 6 episodes; there are seeds from 0 to 2"
    assert why(jobs=[played.id], policies=["expert"]) == "policies=expert removed all 6 episodes; there is random, scripted"
    lacking = why(jobs=[played.id], achievements=["collect_diamond"])
    assert lacking == "achievements=collect_diamond removed all 6 episodes; the nearest has 0 of 1 and lacks collect_diamond"
    two = why(jobs=[played.id], policies=["scripted"], min_achievements=21)
    assert two.startswith("policies=scripted removed 3 of 6 episodes; there is random, and min_achievements=21 removed 3 of 6")


def test_an_empty_choice_for_want_of_readable_replies_says_so(played: Job) -> None:
    with db.writing() as session:
        session.exec(update(TurnRow).values(outcome="no_tool_call"))
    assert why(jobs=[played.id]) == "no line is left: outcomes_ok_only=true removed all 240 turns of 6 episodes"


def test_a_job_that_plays_nothing_is_no_source(played: Job) -> None:
    made = run_spec(filter_tables(jobs=[played.id], limit=1))
    assert "only eval and rl jobs have episodes" in why(jobs=[made.id])
    assert "no job matches 'gone'" in why(jobs=["gone"])


def held(played: Job) -> StepContext:
    """A filter step that this test holds."""
    submit(filter_tables(jobs=[played.id]))
    claim = claims.claim(Queue.DATA, owner="worker-of-the-test")
    assert claim is not None
    return StepContext(claim)


def test_a_step_that_was_taken_back_publishes_nothing(played: Job) -> None:
    context = held(played)
    with db.writing() as session:
        session.exec(update(Step).where(col(Step.id) == context.step_id).values(fence=Step.fence + 1))
    with pytest.raises(LostStep):
        export.run(context)
    with db.reading() as session:
        assert not session.exec(select(Artifact).where(Artifact.job_id == context.job_id)).all()
    context.close()


def test_a_cancelled_step_stops_at_the_next_turn(played: Job) -> None:
    context = held(played)
    context.stop(StepCancelled("cancelled"))
    with pytest.raises(StepCancelled):
        export.run(context)
    context.close()


def test_a_step_that_runs_twice_records_its_files_once(played: Job) -> None:
    context = held(played)
    first, second = export.run(context), export.run(context)
    assert first == second
    with db.reading() as session:
        made = session.exec(select(Artifact).where(Artifact.job_id == context.job_id)).all()
    assert sorted(artifact.kind for artifact in made) == ["dataset", "manifest", "stats"]
    context.close()
