"""Sessions of a tracing v3 database become episodes: prompts, pictures and replies exactly, and nothing that was not there."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from core.kit import job, job_events, steps
from data.flow import bytes_of, filter_tables, run_spec
from PIL import Image
from play.play_kit import episodes, frame_rows, turn_rows
from stores.store_kit import brought, counts, sums
from stores.v3_kit import Writer, assistant, call, picture, png, user

from app import db, specs
from app.errors import BadSource
from app.models import Episode, TextRow
from app.store import imports
from app.transfer.report import Report

SYSTEM = ("system", json.dumps({"role": "system", "text": "You play Crafter.", "content": "You play Crafter."}))


@pytest.fixture
def v3(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "traces.db")


def two_turns(shown: int = 0) -> list[list[tuple[str, str]]]:
    words = {"type": "text", "text": "Step 1/10"}
    return [
        [SYSTEM, user(words, picture(png(shown))), assistant(call("move_left", "do"))],
        [SYSTEM, user(words, picture(png(shown + 1))), assistant(call("sleep"), content="Tired.")],
    ]


def only_turns(report: Report) -> list[Any]:
    """The turns of the one episode that came."""
    (job_id,) = report.jobs
    (found,) = episodes(job_id).values()
    return turn_rows(found.id)


def of_one_turn(v3: Writer, *messages: tuple[str, str]) -> Any:
    v3.session("s", [list(messages)])
    (turn,) = only_turns(brought(v3.path))
    return turn


def test_a_session_becomes_an_episode_with_what_is_known_of_it(store: str, v3: Writer) -> None:
    v3.session(
        "run-1", two_turns(), unlocked={2: ["wake_up"]}, total=1, seed=7, official_score=0.25, judge_scores={"taste": 0.75},
        task_id="survive", task_split="train",
    )  # fmt: skip
    (job_id,) = brought(v3.path).jobs
    (found,) = episodes(job_id).values()
    assert (found.seed, found.model, found.policy) == (7, "gpt-4o-mini", "imported:gpt-4o-mini")
    assert (found.task_id, found.split, found.state) == ("survive", "train", "done")
    assert found.scores == {"official": 0.25, "taste": 0.75}
    assert (found.achievements, found.unlocked, found.turns, found.length) == ({"wake_up": 0}, 1, 2, 17)
    assert found.returns == {"unlocked": 1.0, "native": 2.0, "total_reward": 1.0}
    assert found.created_at == pytest.approx(1761248771.25), "2025-10-23 19:46:11.25 UTC"
    assert found.ended is None, "the source does not tell how it ended"


def test_turns_hold_prompt_picture_reply_and_rewards(store: str, v3: Writer) -> None:
    v3.session("run-1", two_turns(), unlocked={2: ["wake_up"]})
    first, second = only_turns(brought(v3.path))
    sha256 = hashlib.sha256(png(0)).hexdigest()
    assert frame_rows()[sha256] == png(0), "the very bytes"
    assert first.frame == sha256
    parts = [{"type": "text", "text": "Step 1/10"}, {"type": "image", "sha256": sha256}]
    assert first.messages == [{"role": "user", "parts": parts}]
    assert first.reply["tool_calls"] == [{"name": "interact_many", "arguments": '{"actions": ["move_left", "do"]}'}]
    assert (first.outcome, first.actions) == ("ok", ["move_left", "do"]), "no action is edited away"
    assert (second.reply["text"], second.unlocked, second.rewards) == ("Tired.", ["wake_up"], {"unlocked": 1.0, "native": 1.5})
    assert first.timings == {"policy": 250.0}
    with db.reading() as session:
        assert first.system is not None
        text = session.get(TextRow, first.system)
        assert text is not None
        assert text.text == "You play Crafter."


def test_the_job_has_a_spec_that_is_valid_and_names_what_was_played(store: str, v3: Writer) -> None:
    for name, seed, model in [("a", 1, "gpt-4o"), ("b", 1, "gpt-4o"), ("c", 2, "gpt-4o-mini")]:
        v3.session(name, two_turns(), seed=seed, model=model)
    (job_id,) = brought(v3.path, name="their traces.db").jobs
    made = job(job_id)
    spec = specs.parse("eval", made.spec)
    assert isinstance(spec, specs.EvalSpec)
    assert specs.resolved(spec) == made.spec
    assert spec.eval.policies == ("imported:gpt-4o", "imported:gpt-4o-mini")
    assert (spec.eval.seeds, spec.eval.episodes_per_seed, spec.eval.env_config.image_size) == ((1, 2), 2, 64)  # type: ignore[union-attr]
    assert (made.state, made.labels, made.name) == ("succeeded", {"imported": "their traces.db"}, "their_traces.db")
    assert {key: episode.policy for key, episode in episodes(job_id).items()} == {
        (1, 0): "imported:gpt-4o",
        (1, 1): "imported:gpt-4o",
        (2, 2): "imported:gpt-4o-mini",
    }
    assert [step.state for step in steps(job_id)] == ["succeeded"]
    assert [event.seq for event in job_events(job_id)] == [made.event_seq] == [1]
    with db.reading() as session:
        assert imports.jobs_of(session, "their traces.db") == [job_id]


def test_lines_can_be_written_from_it(store: str, v3: Writer) -> None:
    v3.session("run-1", two_turns())
    (job_id,) = brought(v3.path).jobs
    done = run_spec(filter_tables(jobs=[job_id]))
    assert done.state == "succeeded", done.reason
    first, second = [json.loads(line) for line in bytes_of(done, "dataset").splitlines()]
    assert first["messages"][0] == {"role": "system", "content": "You play Crafter."}
    assert first["messages"][1]["content"][1] == picture(png(0))
    (made,) = first["messages"][2]["tool_calls"]
    assert made["function"] == {"name": "interact_many", "arguments": '{"actions": ["move_left", "do"]}'}
    assert second["metadata"]["model"] == "gpt-4o-mini"


# -- replies -----------------------------------------------------------------------------------------------------------------


def test_an_older_list_of_calls_is_read_exactly(store: str, v3: Writer) -> None:
    listed = json.dumps([{"tool_name": "interact_many", "arguments": '{"actions":["do"]}'}])
    turn = of_one_turn(v3, user(text="look"), ("policy_tool_call", listed))
    assert turn.reply["tool_calls"] == [{"name": "interact_many", "arguments": '{"actions":["do"]}'}]
    assert (turn.outcome, turn.actions) == ("ok", ["do"])


def test_arguments_stored_as_an_object_keep_their_values_and_are_counted(store: str, v3: Writer) -> None:
    listed = json.dumps([{"tool_name": "interact_many", "arguments": {"actions": ["do"]}}])
    v3.session("s", [[user(picture(png())), ("tool_use", listed)]])
    report = brought(v3.path)
    (turn,) = only_turns(report)
    assert (turn.actions, turn.outcome) == (["do"], "ok")
    assert any("written as JSON anew" in what for what in report.left)


@pytest.mark.parametrize(
    ("kind", "content", "outcome"),
    [
        ("tool_use", '[{"tool_name": "interact_many", "arguments": "{\\"actions\\": [\\"do\\"…', "parse_error"),
        ("assistant", "I would go left.", "no_tool_call"),
        ("assistant", "[no response recorded]", "no_tool_call"),
        ("assistant", json.dumps({"role": "assistant", "content": "left", "tool_calls": []}), "no_tool_call"),
        ("assistant", json.dumps({"role": "assistant", "tool_calls": [{"function": {"name": "interact_many"}}]}), "parse_error"),
        ("assistant", json.dumps({"role": "assistant", "tool_calls": [call("fly")]}), "parse_error"),
        (
            "assistant",
            json.dumps({"tool_calls": [{"function": {"name": "interact_many", "arguments": "{not json"}}]}),
            "parse_error",
        ),
    ],
    ids=["cut", "words", "filler", "no calls", "no arguments", "no such action", "not json"],
)
def test_a_reply_that_cannot_be_read_is_recorded_as_that(store: str, v3: Writer, kind: str, content: str, outcome: str) -> None:
    turn = of_one_turn(v3, user(picture(png())), (kind, content))
    assert (turn.outcome, turn.actions) == (outcome, [])
    assert turn.detail


def test_what_is_no_whole_turn_is_counted_and_not_made_up(store: str, v3: Writer) -> None:
    seen = user(picture(png()))
    v3.session("s", [[seen], [seen, assistant(call("do"))], [assistant(call("do"))], [("tool_result", "ok"), seen]])
    report = brought(v3.path)
    assert len(only_turns(report)) == 1
    assert report.left["prompt without a reply"] == 2
    assert report.left["reply without a prompt"] == 1
    assert report.left["message of the type 'tool_result'"] == 1


def test_rewards_go_to_the_turn_of_their_number(store: str, v3: Writer) -> None:
    seen = user(picture(png()))
    v3.session("s", [[seen], [seen, assistant(call("do"))]], unlocked={1: ["eat_cow"], 2: ["wake_up"]})
    report = brought(v3.path)
    (turn,) = only_turns(report)
    assert turn.unlocked == ["wake_up"], "not that of the turn whose reply is missing"
    assert report.left["reward or event of a turn that has no messages"] == 3, "a reward and two events"
    assert episodes(report.jobs[0])[3, 0].achievements == {"eat_cow": 0, "wake_up": 0}


# -- what cannot come --------------------------------------------------------------------------------------------------------


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "JPEG")
    return out.getvalue()


BAD_SESSIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no seed": ({"seed": None}, "session without a seed in its metadata"),
    "other environment": ({"env_name": "sokoban"}, "session of the environment 'sokoban', which is not Crafter"),
    "damaged picture": ({"turn": user(picture(png()[:-20]))}, "session with a picture that is no whole 8-bit RGB PNG"),
    "jpeg": ({"turn": user(picture(jpeg(), "image/jpeg"))}, "session with a picture that is no whole 8-bit RGB PNG"),
    "bad base64": (
        {"turn": user({"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!"}})},
        "session with a picture that is no whole 8-bit RGB PNG",
    ),
    "picture elsewhere": (
        {"turn": user({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}})},
        "session with a picture that is not inline base64",
    ),
    "no turns": ({"turn": ("system", "hello")}, "session without a prompt and its reply"),
    "NUL": (
        {"turn": user({"type": "text", "text": "a\0b"})},
        "session with characters that no text may hold (NUL or half a pair)",
    ),
}


@pytest.mark.parametrize("name", BAD_SESSIONS)
def test_a_session_that_cannot_come_is_counted_and_the_others_come(store: str, v3: Writer, name: str) -> None:
    more, why = BAD_SESSIONS[name]
    turn = more.get("turn")
    meta = {key: value for key, value in more.items() if key != "turn"}
    v3.session("bad", [[turn, assistant(call("do"))] if turn else two_turns()[0]], **meta)
    v3.session("good", two_turns())
    report = brought(v3.path)
    assert report.left[why] == 1
    assert (counts()["episode"], report.exit_code) == (1, 0)


def test_a_database_without_sessions_is_refused(store: str, v3: Writer) -> None:
    with pytest.raises(BadSource, match="has no traces: its table session_traces is empty"):
        brought(v3.path)
    assert counts()["imported"] == 0


# -- once --------------------------------------------------------------------------------------------------------------------


def test_a_second_import_of_sessions_adds_nothing(store: str, v3: Writer) -> None:
    v3.session("a", two_turns())
    brought(v3.path)
    before = sums(), counts()
    report = brought(v3.path)
    assert (sums(), counts()) == before
    assert (report.same["episode"], dict(report.new)) == (1, {})


def test_new_sessions_of_a_file_that_grew_become_another_job_of_the_same_name(store: str, v3: Writer) -> None:
    v3.session("a", two_turns())
    (first,) = brought(v3.path).jobs
    v3.session("b", two_turns(), seed=4)
    brought(v3.path)
    with db.reading() as session:
        ids = imports.jobs_of(session, "traces.db")
        assert (ids[0], len(ids), session.get(Episode, first)) == (first, 2, None)
    assert counts()["episode"] == 2


def test_a_session_that_changed_is_a_conflict(store: str, v3: Writer) -> None:
    v3.session("a", two_turns())
    brought(v3.path)
    v3.sql("UPDATE messages SET content = ? WHERE message_type = 'assistant'", assistant(call("do"))[1])
    before = sums()
    report = brought(v3.path)
    assert (report.exit_code, sums()) == (5, before)
    assert "session a is here as episode" in report.problems[0]


def test_a_dry_run_counts_what_an_import_does(store: str, v3: Writer) -> None:
    v3.session("a", two_turns())
    before = counts()
    looked = brought(v3.path, dry_run=True)
    assert counts() == before
    assert dict(looked.new) == dict(brought(v3.path).new)
