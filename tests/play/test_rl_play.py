"""Play of rl jobs through the real steps: which version played each turn, what an update finds, what an evaluation is scored by.

A stand-in engine answers; the test does what a trainer does between two plays, which is to publish a version.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from core.kit import claim, job, job_events, small_rl, steps
from core.kit import submit as submit_job
from engine_stand_in import BASE, Engine
from play_kit import turn_rows, work
from sqlmodel import col, select

from app import artifacts, claims, db, lifecycle, sources, specs
from app.endpoints import publish
from app.models import ITS_OWN, Artifact, Episode, FrameRow, Job, Queue
from app.specs import RlSpec
from app.store import jobs, metrics
from workers.rollout import report_rl
from workers.transport.pixels import decode_png

pytestmark = pytest.mark.usefixtures("sqlite_store", "no_pauses")

LABEL = f"model:{BASE}"
SPLITS = ("evaluation", "evaluation-blank")


def spec_of(**tables: Any) -> RlSpec:
    """Two iterations, tried before each of them and at the end."""
    return small_rl({"model": {"base": BASE}}, tables)


def submit(spec: RlSpec) -> str:
    """Submit an rl job; what its label means is written as the API would."""
    use = {"label": spec.label, "base": BASE, "line": ITS_OWN, "options": spec.vllm.model_dump(mode="json")}
    return submit_job("rl", specs.resolved(spec), uses=[use]).id


class Trainer:
    """What a trainer does between two plays, by hand."""

    def __init__(self, engine: Engine, job_id: str) -> None:
        self.engine, self.job_id, self.version = engine, job_id, 0

    def take(self) -> claims.Claim:
        """Claim the step that waits for a trainer."""
        return claim(Queue.TRAINER)

    def publish(self) -> None:
        """Make the next version, and have the engine serve it."""
        self.version += 1
        sha256 = str(self.version) * 64
        with db.writing() as session:
            publish.publish(session, self.job_id, BASE, f"/adapters/v{self.version}", sha256=sha256)
        self.engine.adapters[f"{self.job_id}-v{self.version}"] = sha256
        self.engine.report()
        with db.writing() as session:
            assert publish.advance(session, self.job_id)

    def end(self, taken: claims.Claim, **result: Any) -> None:
        """End its step well."""
        with db.writing() as session:
            lifecycle.succeed_step(session, taken.step_id, taken.fence, result)

    def round(self) -> str:
        """Do what waits: a version comes of everything but of keeping. Gives the step's key."""
        taken = self.take()
        if taken.kind != "keep":
            self.publish()
        self.end(taken)
        return str(taken.key)


def run(engine: Engine, job_id: str) -> Job:
    """The job, worked through."""
    trainer = Trainer(engine, job_id)
    while job(job_id).state in ("queued", "running"):
        trainer.round()
        work()
    return job(job_id)


def rows_of(job_id: str) -> list[Episode]:
    with db.reading() as session:
        rows = session.exec(select(Episode).where(Episode.job_id == job_id).order_by(col(Episode.iteration), col(Episode.seed)))
        found = list(rows)
        session.expunge_all()
        return found


def versions(job_id: str) -> dict[tuple[str, int], Counter[str]]:
    """(split, iteration) -> turns by the version that played them."""
    found: dict[tuple[str, int], Counter[str]] = {}
    for row in rows_of(job_id):
        counted = found.setdefault((row.split, row.iteration), Counter())
        counted.update(turn.policy_version.partition("@")[0].rpartition("-")[2] for turn in turn_rows(row.id))
    return found


def test_each_turn_tells_the_version_that_played_it_and_an_iteration_is_played_by_the_one_before_its_update(
    engine: Engine,
) -> None:
    job_id = submit(spec_of())
    ended = run(engine, job_id)
    assert (ended.state, ended.reason) == ("succeeded", None)
    assert versions(job_id) == {
        ("train", 0): Counter(v1=12),
        ("evaluation", 0): Counter(v1=6),
        ("train", 1): Counter(v2=12),
        ("evaluation", 1): Counter(v2=6),
        ("evaluation", 2): Counter(v3=6),
    }
    assert {row.policy for row in rows_of(job_id)} == {LABEL}
    first = rows_of(job_id)[0]
    assert first.policy_version == f"{job_id}-v1@{'1' * 12}"


def test_an_update_finds_the_tokens_that_were_sampled_in_groups_of_one_seed(engine: Engine) -> None:
    spec = spec_of()
    job_id = submit(spec)
    run(engine, job_id)
    learnt = [row for row in rows_of(job_id) if row.split == "train"]
    assert Counter((row.iteration, row.seed) for row in learnt) == {
        (i, seed): spec.training.group_size for i in range(2) for seed in spec.seeds_of(i)
    }
    turns = [turn for row in learnt for turn in turn_rows(row.id)]
    assert all(turn.prompt_ids and turn.output_ids and turn.logprobs for turn in turns)
    assert all(len(turn.output_ids or ()) == len(turn.logprobs or ()) for turn in turns)
    assert all(turn.frame for turn in turns)
    bodies = [asked.body for asked in engine.asked]
    assert len({body["seed"] for body in bodies}) == len(bodies), "members of a group draw each for itself"


def test_play_that_goes_ahead_of_an_update_is_of_the_version_before_it(engine: Engine) -> None:
    job_id = submit(spec_of(training={"iterations": 2, "staleness": 1}, evaluation={"every_n_iters": 5}))
    trainer = Trainer(engine, job_id)
    trainer.round()
    work()
    beside = [(step.key, step.state) for step in steps(job_id) if not step.key.startswith(("1/begin", "1/play/0", "1/eval/0"))]
    assert beside == [
        ("1/update/0", "queued"),
        ("1/score/0", "succeeded"),
        ("1/play/1/0", "succeeded"),
        ("1/play/1/1", "succeeded"),
    ]
    while job(job_id).state == "running":
        trainer.round()
        work()
    assert job(job_id).state == "succeeded"
    assert versions(job_id) == {
        ("train", 0): Counter(v1=12),
        ("evaluation", 0): Counter(v1=6),
        ("train", 1): Counter(v1=12),
        ("evaluation", 2): Counter(v3=6),
    }


def test_an_evaluation_is_played_as_it_says_and_play_as_it_says(engine: Engine) -> None:
    spec = spec_of(
        rollout={"policy_config": {"temperature": 0.7, "max_tokens": 9}},
        evaluation={"temperature": 0.1, "instances": 4, "at_start": False, "every_n_iters": 5},
    )
    run(engine, submit(spec))
    asked = Counter((each.body["temperature"], each.body["max_tokens"]) for each in engine.asked)
    assert asked == {(0.7, 9): 2 * 4 * 3, (0.1, 9): 4 * 3}


def test_each_evaluation_is_scored_when_it_was_played_and_all_of_them_in_the_report(engine: Engine) -> None:
    job_id = submit(spec_of())
    ended = run(engine, job_id)
    summary = ended.summary or {}
    assert [(point["iteration"], point["version"], point["episodes"]) for point in summary["curve"]] == [
        (0, 1, 2),
        (1, 2, 2),
        (2, 3, 2),
    ]
    assert summary["iterations"] == {"asked": 2, "done": 2, "begun": 0}
    assert summary["episodes"] == {"done": 14}
    assert summary["gain"]["to"] == 2
    assert summary["gain"]["achievements"]["mean"] == pytest.approx(
        summary["curve"][2]["achievements"]["mean"] - summary["curve"][0]["achievements"]["mean"]
    )
    told = [event for event in job_events(job_id) if event.type == "rl.evaluated"]
    assert [event.data["point"]["iteration"] for event in told] == [0, 1], "the last one is the report's"
    with db.reading() as session:
        points = metrics.series(session, job_id, "eval")
        assert [point.index for point in points] == [0, 1, 2]
        assert points[2].values["achievements"] == summary["curve"][2]["achievements"]["mean"]
        report = session.get(Artifact, summary["report"])
        assert report is not None
        with artifacts.open_artifact(report) as file:
            whole = json.load(file)
    assert [(each["iteration"], each["episodes"]) for each in whole["play"]] == [(0, 4), (1, 4)]
    assert len(whole["results"]) == 14


def test_the_scores_are_those_of_an_eval_of_the_same_play(engine: Engine) -> None:
    spec = spec_of(evaluation={"seeds": "0-5"})
    job_id = submit(spec)
    point = (run(engine, job_id).summary or {})["curve"][0]
    tried = [row for row in rows_of(job_id) if row.split == "evaluation" and row.iteration == 0]
    assert point["achievements"]["mean"] == sum(row.unlocked for row in tried) / 6
    assert point["return"]["mean"] == pytest.approx(sum(row.returns["native"] for row in tried) / 6)
    assert sum(point["outcomes"].values()) == sum(row.turns for row in tried)


def test_of_a_retry_no_episode_is_played_again(engine: Engine) -> None:
    job_id = submit(spec_of(evaluation={"every_n_iters": 5}))
    trainer = Trainer(engine, job_id)
    trainer.round()
    work()
    update = trainer.take()
    with db.writing() as session:
        lifecycle.fail_step(session, update.step_id, update.fence, "out of memory", retryable=False)
    assert job(job_id).reason == "an update could not be made: out of memory"
    played = len(engine.asked)
    with db.writing() as session:
        lifecycle.retry(session, job(job_id))
    trainer.round()  # begins anew; its version is the next one
    work()
    assert [step.key for step in steps(job_id) if step.job_attempt == 2] == ["2/begin", "2/update/0", "2/score/0"]
    assert len(engine.asked) == played
    while job(job_id).state == "running":
        trainer.round()
        work()
    assert job(job_id).state == "succeeded"
    with db.reading() as session:
        assert jobs.progress(session, job(job_id)) == jobs.Progress(done=2, failed=0, total=2, unit="iterations")


def test_a_filter_reads_the_play_of_an_rl_job(engine: Engine, tmp_path: Path) -> None:
    job_id = submit(spec_of(rollout={"reply_format": "text", "policy_config": {"max_actions": 2}}))
    run(engine, job_id)
    table = {"jobs": [job_id], "splits": ["evaluation"], "filter_errors": False}
    made = submit_job("filter", specs.resolved(specs.build({"kind": "filter", "filter": table}, env={}))).id
    work()
    ended = job(made)
    assert ended.state == "succeeded", ended.reason
    tried = [row for row in rows_of(job_id) if row.split == "evaluation"]
    assert (ended.summary or {})["lines"] == sum(row.outcomes.get("ok", 0) for row in tried) > 0


def test_the_expert_says_of_every_state_that_was_reached_what_it_would_have_done(engine: Engine) -> None:
    job_id = submit(spec_of())
    run(engine, job_id)
    table = {"jobs": [job_id], "splits": ["train"], "relabel": "scripted", "outcomes_ok_only": False}
    made = submit_job("filter", specs.resolved(specs.build({"kind": "filter", "filter": table}, env={}))).id
    work()
    ended = job(made)
    assert ended.state == "succeeded", ended.reason
    reached = sum(row.turns for row in rows_of(job_id) if row.split == "train")
    assert (ended.summary or {})["lines"] == reached == 24


def test_play_with_black_pictures_stands_beside_the_evaluation_and_counts_for_nothing_else(engine: Engine) -> None:
    black = Counter[bytes]()
    job_id = submit(spec_of(evaluation={"blank_frames_every_n_iters": 2, "seeds": "0-3"}))
    ended = run(engine, job_id)
    summary = ended.summary or {}
    rows = rows_of(job_id)
    blind = [row for row in rows if row.split == "evaluation-blank"]
    assert Counter((row.iteration, row.member) for row in blind) == {(0, 1): 4, (2, 1): 4}
    with db.reading() as session:
        for row in blind:
            for turn in turn_rows(row.id):
                frame = session.get(FrameRow, turn.frame)
                assert frame is not None
                black[decode_png(frame.png or b"").tobytes()] += 1
    (pixels,) = black
    assert set(pixels) == {0}

    assert [(point["iteration"], point["episodes"], "blank" in point) for point in summary["curve"]] == [
        (0, 4, True),
        (1, 4, False),
        (2, 4, True),
    ]
    last = summary["curve"][2]
    seen, unseen = ({row.seed: row.unlocked for row in rows if (row.iteration, row.split) == (2, s)} for s in SPLITS)
    assert last["blank"]["achievements"]["mean"] == sum(unseen.values()) / 4
    assert last["blank"]["gap"]["achievements"]["mean"] == sum(seen[seed] - unseen[seed] for seed in range(4)) / 4
    with db.reading() as session:
        values = {point.index: point.values for point in metrics.series(session, job_id, "eval")}
    assert values[2]["blank_gap/achievements"] == last["blank"]["gap"]["achievements"]["mean"]
    assert "blank/achievements" not in values[1]


def test_a_filter_tells_of_play_with_black_pictures(engine: Engine) -> None:
    job_id = submit(
        spec_of(
            rollout={"reply_format": "text", "policy_config": {"max_actions": 2}}, evaluation={"blank_frames_every_n_iters": 2}
        )
    )
    run(engine, job_id)
    for splits, blank in ((["evaluation-blank", "evaluation"], 4), (["evaluation"], None)):
        table = {"jobs": [job_id], "splits": splits, "relabel": "scripted", "filter_errors": False}
        spec = specs.build({"kind": "filter", "filter": table}, env={})
        with db.reading() as session:
            cautions = sources.cautions(session, spec)
        assert [text.startswith(f"filter.jobs.0: job {job_id} was played with black") for text in cautions] == [True] * bool(
            blank
        )
        made = submit_job("filter", specs.resolved(spec)).id
        work()
        ended = job(made)
        assert ended.state == "succeeded", ended.reason
        assert (ended.summary or {}).get("blank_frames") == blank
        warned = [event.message for event in job_events(made) if event.level == "warning"]
        assert ["4 episodes were played with black pictures" in text for text in warned] == [True] * bool(blank)


def test_a_model_that_plays_as_well_with_black_pictures_is_told_of(engine: Engine) -> None:
    job_id = submit(spec_of(evaluation={"blank_frames_every_n_iters": 2, "temperature": 0.0}))
    run(engine, job_id)  # what answers goes by the seed, whatever is shown
    warned = [event for event in job_events(job_id) if event.type == "rl.blind"]
    assert [(event.level, event.data["iteration"]) for event in warned] == [("warning", 0), ("warning", 2)]
    assert warned[1].message.startswith("after 2 updates black pictures do as well as true ones, as far as 2 seeds can tell: ")


def test_what_sees_better_than_it_guesses_is_not_told_of() -> None:
    gap = {"seeds": 9, "achievements": {"mean": 0.5, "low": 0.1, "high": 0.9}, "return": {"mean": 0.1, "low": -0.2, "high": 0.4}}
    blank = {"achievements": {"mean": 1.0}, "gap": gap}
    assert report_rl.as_well_blind({"iteration": 3, "blank": blank}) is None
    gap["achievements"] = {"mean": 0.5, "low": -0.1, "high": 1.1}
    told = report_rl.as_well_blind({"iteration": 1, "blank": blank})
    assert told is not None
    assert "after 1 update black" in told
    assert "9 seeds can tell: 1.00 achievements, and with true ones 0.50 [-0.10, 1.10] more" in told
