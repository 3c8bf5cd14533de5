"""Groups that begin in the middle of what a teacher played: one state for all members, played again exactly, counted from there.

The teacher's play is real, and so are the steps of the rl job; a stand-in engine answers for the model.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from core.kit import job, small_rl, submit_eval, use_settings, work_through, write
from core.kit import submit as submit_job
from data.flow import at_home
from engine_stand_in import BASE, Engine
from play_kit import begin, options, play, traced, turn_rows, work
from play_kit import episodes as episodes_of
from sqlalchemy.exc import OperationalError
from sqlmodel import col, select
from stores.store_kit import brought
from test_rl_play import Trainer, rows_of, run, submit

from app import curricula, db, lifecycle, migrate, specs
from app.errors import Conflict, ReplayMismatch, SpecProblems
from app.fsck import __main__ as fsck
from app.models import Episode, JobState, Step, TextRow, TurnRow
from app.records import EpisodeKey, Frame
from app.retention.policy import Policy
from app.retention.prune import Pruner
from app.specs import RlSpec
from app.store import jobs
from app.store.starts import Start
from workers.rollout import envs
from workers.rollout.play import Game, PlayOptions
from workers.rollout.policies.random import Random
from workers.rollout.policies.scripted import Scripted
from workers.rollout.prompts import PromptOptions
from workers.rollout.relabel import recorded, relabel
from workers.rollout.starts import reached, settings
from workers.transport.pixels import encode_png

pytestmark = pytest.mark.usefixtures("sqlite_store", "no_pauses")


def spec_of(teacher: str, **tables: Any) -> RlSpec:
    """Two iterations of two groups, one of which begins in the teacher's play, three turns each."""
    curriculum = {"job": teacher, "share": 0.5, "turns": [5, 20]} | tables.pop("curriculum", {})
    return small_rl({"model": {"base": BASE}, "curriculum": curriculum}, tables)


def teach(seeds: str = "100-103", **table: Any) -> str:
    """What the expert has played."""
    job_id = submit_eval(seeds, **{"max_turns": 25, "policies": ["scripted"], "name": "teacher"} | table).id
    work_through()
    assert job(job_id).state == JobState.SUCCEEDED
    return job_id


def begun(job_id: str) -> list[Episode]:
    """The job's episodes that begin in the middle."""
    return [row for row in rows_of(job_id) if row.start_of]


def source_of(row: Episode) -> tuple[str, int]:
    """The episode that it begins in, and the turn."""
    assert row.start_of is not None
    source, _, turn = row.start_of.partition("/")
    return source, int(turn)


def payloads(job_id: str) -> dict[str, Any]:
    """What play steps were told of starts, by key without the attempt."""
    with db.reading() as session:
        rows = session.exec(select(Step).where(Step.job_id == job_id, Step.kind == "play")).all()
        return {row.key.partition("/")[2]: row.payload.get("starts") for row in rows}


def problems() -> list[str]:
    """What a check of the whole store finds."""
    return [problem.sentence for check in fsck.run() for problem in check.problems]


# -- where they begin --------------------------------------------------------------------------------------------------------


def test_every_member_of_a_group_begins_where_the_teacher_stood_and_sees_what_it_saw(engine: Engine) -> None:
    teacher = teach()
    ended = run(engine, job_id := submit(spec_of(teacher)))
    assert (ended.state, ended.reason) == ("succeeded", None)
    groups: defaultdict[tuple[int, int], list[Episode]] = defaultdict(list)
    for row in rows_of(job_id):
        if row.split == "train":
            groups[row.iteration, row.seed].append(row)
    assert len(groups) == 4
    assert sum(bool(members[0].start_of) for members in groups.values()) == 2, "half of the groups of each iteration"
    for (_, seed), members in groups.items():
        assert len({(row.start, row.start_of) for row in members}) == 1
        firsts = {turn_rows(row.id)[0].frame for row in members}
        assert len(firsts) == 1
        if members[0].start_of:
            source, turn = source_of(members[0])
            assert 5 <= turn <= 20
            seen = turn_rows(source)[turn]
            assert firsts == {seen.frame}
            assert {row.seed for row in episodes_of(teacher).values() if row.id == source} == {seed}
            assert now_of(turn_rows(members[0].id)[0]) == now_of(seen), "it is told the same of the moment, and nothing of before"
    assert problems() == []


def now_of(turn: TurnRow) -> list[str]:
    """What a prompt tells of the present: its last text, without the turns before."""
    told = [part["text"] for message in turn.messages for part in message["parts"] if part["type"] == "text"]
    return told[-1].split("\n\n")[-1:] if told else []


def test_an_evaluation_begins_where_the_world_begins(engine: Engine) -> None:
    run(engine, job_id := submit(spec_of(teach(), curriculum={"share": 1.0})))
    tried = [row for row in rows_of(job_id) if row.split == "evaluation"]
    assert len(tried) == 6
    for row in tried:
        assert (row.start, row.start_of) == (None, None)
        assert turn_rows(row.id)[0].frame == first_frame(row.seed)
    learnt = [row for row in rows_of(job_id) if row.split == "train"]
    assert len(learnt) == 8
    assert all(row.start_of and turn_rows(row.id)[0].frame != first_frame(row.seed) for row in learnt)


def first_frame(seed: int) -> str:
    """The frame at a seed's beginning."""
    world = envs.make("crafter", {})
    world.reset(seed)
    pixels = world.frame()
    return Frame.of(encode_png(pixels), width=pixels.shape[1], height=pixels.shape[0]).sha256


def test_the_report_tells_how_many_began_later(engine: Engine) -> None:
    ended = run(engine, submit(spec_of(teach())))
    assert ended.summary is not None
    assert ended.summary["begun_later"] == 4


def test_play_that_began_later_can_be_begun_from_in_turn(engine: Engine) -> None:
    first = submit(spec_of(teach(), curriculum={"share": 1.0}))
    run(engine, first)
    spec = spec_of(first, curriculum={"share": 1.0, "turns": [1, 2]}, data={"seed_start": 20_000})
    run(engine, second := submit(spec))
    for row in begun(second):
        source, turn = source_of(row)
        assert turn_rows(row.id)[0].frame == turn_rows(source)[turn].frame
    assert len(begun(second)) == 8


# -- played again ------------------------------------------------------------------------------------------------------------


def labels_of(row: Episode, spec: RlSpec) -> list[tuple[str, ...]]:
    """The expert's word on every turn; raises where the episode, played again, comes out otherwise."""
    chosen = PlayOptions.of(spec)
    with db.reading() as session:
        played = recorded(session, row.id, chosen.env, chosen.env_config)
    used = envs.make(chosen.env, dict(chosen.env_config))
    return [label.actions for label in relabel(played, env=used)]


def test_an_episode_that_began_later_is_played_again_exactly_and_a_changed_one_is_not(engine: Engine) -> None:
    spec = spec_of(teach())
    run(engine, job_id := submit(spec))
    for row in begun(job_id):
        assert len(labels_of(row, spec)) == row.turns == 3
        assert labels_of(row, spec) == labels_of(row, spec)
        write("UPDATE episode SET start = NULL WHERE id = :id", id=row.id)
        with pytest.raises(ReplayMismatch, match="turn 0 has the frame"):
            labels_of(row, spec)


def test_a_filter_relabels_what_began_later(engine: Engine) -> None:
    run(engine, job_id := submit(spec_of(teach())))
    table = {"jobs": [job_id], "splits": ["train"], "relabel": "scripted", "outcomes_ok_only": False}
    made = submit_job("filter", specs.resolved(specs.build({"kind": "filter", "filter": table}, env={}))).id
    work()
    assert (job(made).state, job(made).reason) == ("succeeded", None)
    assert (job(made).summary or {})["lines"] == sum(row.turns for row in rows_of(job_id) if row.split == "train") == 24


def test_it_can_be_played_again_when_the_teachers_play_is_gone(engine: Engine) -> None:
    spec = spec_of(teacher := teach())
    run(engine, job_id := submit(spec))
    before = [labels_of(row, spec) for row in begun(job_id)]
    with db.writing() as session:
        lifecycle.remove(session, lifecycle.lock_job(session, teacher))
    Pruner(Policy()).run()
    assert [labels_of(row, spec) for row in begun(job_id)] == before
    assert problems() == []


def test_a_text_of_a_start_goes_when_no_episode_names_it_any_more(engine: Engine) -> None:
    run(engine, job_id := submit(spec_of(teach())))
    names = {row.start for row in begun(job_id)}
    with db.writing() as session:
        lifecycle.remove(session, lifecycle.lock_job(session, job_id))
    Pruner(Policy()).run()
    with db.reading() as session:
        assert not session.exec(select(TextRow).where(col(TextRow.sha256).in_(names))).all()


def test_a_lost_and_a_changed_start_are_found(engine: Engine) -> None:
    spec = spec_of(teach())
    run(engine, job_id := submit(spec))
    one = begun(job_id)[0]
    write("DELETE FROM text WHERE sha256 = :it", it=one.start)
    with pytest.raises(ReplayMismatch, match=f"begins at {one.start_of}, and the text .* is not stored"):
        labels_of(one, spec)
    assert any(f"begins at {one.start_of}, and the text {one.start}" in sentence for sentence in problems())
    write("UPDATE episode SET start = :other WHERE id = :id", other="0" * 64, id=one.id)
    assert any(f"episode {one.id} " in sentence and "one of them was changed" in sentence for sentence in problems())


# -- counted from there ------------------------------------------------------------------------------------------------------


def started(turns: int = 40, *, length: int = 10_000, policy: Any = None, seed: int = 6) -> tuple[Game, Game, Start]:
    """The expert's game so far, and one that begins where it stands."""
    chosen = options(length=length, prompt=PromptOptions(max_actions=1))
    teacher = begin(Scripted(), options(), seed=seed)
    done = play(teacher, turns)
    start = Start(
        env="crafter",
        env_version=teacher.env.version,
        seed=seed,
        actions=tuple(action for turn in done for action in turn.actions),
        of=f"ep_x/{turns}",
    )
    world = reached(start, chosen.env_config)
    game = Game.begin(chosen, policy or Random(), EpisodeKey(iteration=0, seed=seed, member=0), world, start)
    return teacher, game, start


def test_what_was_unlocked_before_the_start_is_no_gain_and_steps_are_counted_from_there() -> None:
    teacher, game, _ = started(policy=Scripted())
    before = teacher.figures()
    assert before["achievements"], "it has something already"
    turns = play(game, 60)
    after = game.figures()
    assert not set(before["achievements"]) & set(after["achievements"])
    assert sorted(after["achievements"]) == sorted(name for turn in turns for name in turn.unlocked)
    assert after["unlocked"] == len(after["achievements"]) == after["returns"]["unlocked"] > 0
    assert after["length"] == sum(len(turn.actions) for turn in turns)
    assert all(1 <= step <= after["length"] for step in after["achievements"].values())


def test_an_episodes_length_counts_from_its_start() -> None:
    _, game, start = started(length=15)
    assert len(start.actions) > 15
    turns = play(game)
    assert (len(turns), game.ended, turns[-1].truncated) == (15, "length", True)


def test_one_that_was_left_half_way_goes_on_as_if_it_had_not_been() -> None:
    _, whole, _ = started()
    _, half, start = started()
    turns = play(whole, 30)
    first = play(half, 11)
    world = envs.make("crafter", settings(half.options.env_config, start))
    later = Game.resume(half.options, Random(), half.key, half.snapshot(), world)
    rest = play(later, 19)
    assert traced([*first, *rest]) == traced(turns)
    untimed = [{name: value for name, value in game.figures().items() if name != "timings"} for game in (whole, later)]
    assert untimed[0] == untimed[1]


def test_a_snapshot_of_the_time_before_there_were_starts_can_be_gone_on_from() -> None:
    game = begin(Random(), options(), seed=3)
    play(game, 7)
    held = json.loads(zlib.decompress(game.snapshot()))
    del held["before"]
    later = Game.resume(game.options, Random(), game.key, zlib.compress(json.dumps(held).encode()))
    assert later.figures() == game.figures()


def test_equal_turns_from_another_start_are_other_play() -> None:
    """A start of which one action was done twice without effect differs in nothing but its name."""
    _, game, _ = started()
    _, same, start = started()
    play(game, 5)
    play(same, 5)
    assert game.totals.chain == same.totals.chain
    plain = Game(same.options, Random(), same.key, reached(start, same.options.env_config))
    plain.policy.begin(plain.env, same.key, sampling_seed=0)
    assert traced(play(plain, 5)) == traced(play(started()[1], 5))
    assert plain.totals.chain != same.totals.chain


def test_the_way_there_is_the_same_in_a_world_of_another_picture() -> None:
    _, game, start = started()
    small = reached(start, {"image_size": 27, "length": 99})
    big = reached(start, {"image_size": 64, "length": 99})
    assert small.state_sha256() == big.state_sha256()
    assert base64.b64encode(small.snapshot()) == base64.b64encode(game.env.snapshot())


# -- again after a crash -----------------------------------------------------------------------------------------------------


def test_a_step_that_breaks_off_asks_again_for_the_same_start_and_comes_to_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(teach())
    run(engine, whole := submit(spec))
    real, broken = Game.turn, list[str]()

    async def turn(game: Game) -> Any:
        if (
            game.totals.turns == len(broken) and game._before.start and len(broken) < 3
        ):  # before the first turn, after one, after two
            broken.append(game._before.start)
            raise OperationalError("select 1", {}, Exception("the server went away"))
        return await real(game)

    monkeypatch.setattr(Game, "turn", turn)
    with use_settings(SYNTHQ_SEGMENT_S="0.000001", SYNTHQ_MAX_ATTEMPTS="9"):
        cut = submit(spec)
        assert run(engine, cut).state == "succeeded"
    assert len(broken) == 3
    told = [{(r.iteration, r.seed, r.member, r.split): (r.start_of, r.sha256) for r in rows_of(id)} for id in (whole, cut)]
    assert told[0] == told[1]
    assert payloads(whole) == payloads(cut)
    assert problems() == []


def test_a_later_attempt_is_told_what_the_first_was(engine: Engine) -> None:
    teach()
    job_id = submit(spec_of("teacher", evaluation={"at_start": False, "every_n_iters": 5}))
    trainer = Trainer(engine, job_id)
    trainer.round()
    work()
    update = trainer.take()
    with db.writing() as session:
        lifecycle.fail_step(session, update.step_id, update.fence, "out of memory", retryable=False)
    teach("200-203")  # a newer job of the same name
    with db.writing() as session:
        lifecycle.retry(session, job(job_id))
    while job(job_id).state in ("queued", "running"):
        trainer.round()
        work()
    assert job(job_id).state == "succeeded"
    with db.reading() as session:
        query = select(Step).where(Step.job_id == job_id, Step.kind == "starts").order_by(col(Step.position))
        first, second = [row.result for row in session.exec(query)]
    assert first == second
    assert {row.seed for row in begun(job_id)} <= {100, 101, 102, 103}


def test_what_is_gone_before_its_group_begins_is_told_in_the_episodes_error(engine: Engine) -> None:
    teacher = teach()
    spec = spec_of(teacher, rollout={"min_share": 0.5}, evaluation={"at_start": False, "every_n_iters": 5})
    trainer = Trainer(engine, job_id := submit(spec))
    trainer.round()
    work(1)  # the step that looks up where groups may begin
    with db.writing() as session:
        lifecycle.remove(session, lifecycle.lock_job(session, teacher))
    work()
    failed = [row for row in rows_of(job_id) if row.state == "failed"]
    assert len(failed) == 2
    assert all("is not in the store any more" in str(row.error) for row in failed)
    assert problems() == []


def test_retention_keeps_the_teachers_play_while_the_job_has_not_ended(engine: Engine) -> None:
    teacher = teach()
    submit(spec_of("teacher"))
    write("UPDATE job SET finished_at = 1 WHERE id = :id", id=teacher)
    assert Pruner(Policy(jobs_days=1)).run().jobs == 0


# -- which episodes ----------------------------------------------------------------------------------------------------------


def found(spec: RlSpec) -> curricula.Pool:
    with db.reading() as session:
        return curricula.pool(session, spec, curricula.source(session, spec))


def refused(spec: RlSpec) -> str:
    """Why a spec is refused when it is submitted."""
    with db.reading() as session, pytest.raises(SpecProblems) as caught:
        curricula.check(session, spec)
    (problem,) = caught.value.problems
    assert problem.key == "curriculum.job"
    return problem.message


def test_seeds_of_evaluation_and_final_seeds_are_never_begun_from(engine: Engine) -> None:
    spec = spec_of(teach("0-5"), data={"final_seeds": "4-5"}, curriculum={"share": 1.0})
    pool = found(spec)
    assert pool.seeds == {2, 3}
    assert pool.left_out == {"their seeds are of evaluation or in data.final_seeds": 4}
    run(engine, job_id := submit(spec))
    assert {row.seed for row in begun(job_id)} == {2, 3}


def test_a_job_that_goes_on_is_not_tried_on_seeds_that_were_begun_from(engine: Engine) -> None:
    run(engine, job_id := submit(spec_of(teach())))
    seed = begun(job_id)[0].seed
    later = small_rl({"model": {"base": BASE, "extend": f"{job_id}@2"}, "evaluation": {"seeds": f"0,{seed}"}})
    with db.reading() as session, pytest.raises(SpecProblems) as caught:
        curricula.check(session, later)
    (problem,) = caught.value.problems
    assert (problem.key, f"has begun groups in the world of seed {seed};" in problem.message) == ("evaluation.seeds", True)


def test_a_job_that_has_only_such_seeds_is_refused_at_submit_and_by_the_step(engine: Engine) -> None:
    spec = spec_of(teach("0-1"))
    said = refused(spec)
    assert said.endswith(
        "has 0 episodes of 0 seeds (2 left out: their seeds are of evaluation or in data.final_seeds) to begin from; "
        "1 group of every iteration want a seed each"
    )
    ended = run(engine, submit(spec))
    assert (ended.state, ended.reason) == ("failed", f"no group can begin where [curriculum] says: {said}")


def test_play_with_black_pictures_is_never_begun_from(engine: Engine) -> None:
    teacher = submit(small_rl({"model": {"base": BASE}, "evaluation": {"blank_frames_every_n_iters": 1, "seeds": "100-103"}}))
    run(engine, teacher)
    pool = found(spec_of(teacher, curriculum={"turns": [1, 2]}))
    with db.reading() as session:
        splits = {session.get_one(Episode, id).split for id, _, _ in pool.episodes}
    assert splits == {"train", "evaluation"}
    assert pool.left_out["they were played with black pictures"] == sum(
        row.split == "evaluation-blank" for row in rows_of(teacher)
    )


def test_only_good_episodes_of_the_policies_that_are_named_are_begun_from() -> None:
    teacher = teach("100-105", policies=["scripted", "random"], max_turns=60)
    rows = episodes_of(teacher)
    least = sorted(row.unlocked for row in rows.values() if row.policy == "scripted")[2] + 1  # too many for some
    wanted = {row.id for row in rows.values() if row.policy == "scripted" and row.unlocked >= least and row.turns > 5}
    curriculum = {"policies": ["scripted"], "min_achievements": least}
    assert {id for id, _, _ in found(spec_of(teacher, curriculum=curriculum)).episodes} == wanted
    assert 0 < len(wanted) < 6


def test_what_can_never_be_begun_from_is_refused_with_the_reason() -> None:
    teacher = teach()
    assert "no job matches 'nobody'" in refused(spec_of("nobody"))
    assert "has no policy 'random'; it has scripted" in refused(spec_of(teacher, curriculum={"policies": ["random"]}))
    assert "4 left out: too few turns" in refused(spec_of(teacher, curriculum={"turns": [90, 99]}))
    filtered = submit_job("filter", specs.resolved(specs.build({"kind": "filter", "filter": {"jobs": [teacher]}}))).id
    assert "is of the kind filter, and only eval and rl jobs have episodes to begin from" in refused(spec_of(filtered))


def test_a_job_whose_play_has_not_ended_is_waited_for() -> None:
    teacher = submit_eval("100-103", policies=["scripted"], max_turns=25).id
    with db.reading() as session:
        curricula.check(session, spec_of(teacher))
        assert curricula.waits_for(session, spec_of(teacher)) == [{"job": teacher, "on": "any"}]
    work_through()
    with db.reading() as session:
        assert curricula.waits_for(session, spec_of(teacher)) == []


# -- in another store --------------------------------------------------------------------------------------------------------


def test_a_start_comes_along_into_another_store(engine: Engine, own_home: Path, tmp_path: Path) -> None:
    spec = spec_of(teacher := teach())
    run(engine, job_id := submit(spec))
    before = {row.id: (row.start, row.start_of, row.sha256, labels_of(row, spec)) for row in begun(job_id)}
    db.dispose()
    with at_home(tmp_path / "other"):
        migrate.upgrade()
        report = brought(own_home / "synthq.db")
        assert (report.exit_code, report.new["job"]) == (0, 2)
        with db.writing() as session:
            lifecycle.remove(session, lifecycle.lock_job(session, teacher))
        Pruner(Policy()).run()
        after = {row.id: (row.start, row.start_of, row.sha256, labels_of(row, spec)) for row in begun(job_id)}
        assert after == before
        assert problems() == []


def test_an_episode_whose_start_was_changed_is_not_brought_in(engine: Engine, own_home: Path, tmp_path: Path) -> None:
    run(engine, job_id := submit(spec_of(teach())))
    one = begun(job_id)[0]
    write("UPDATE episode SET start = NULL WHERE id = :id", id=one.id)
    db.dispose()
    with at_home(tmp_path / "other"):
        migrate.upgrade()
        report = brought(own_home / "synthq.db")
        assert any(one.id in sentence and "one of them was changed" in sentence for sentence in report.problems)
        assert one.id not in {row.id for row in rows_of(job_id)}


def test_a_teacher_is_not_removed_while_a_job_begins_in_its_play(engine: Engine) -> None:
    teacher, other = teach(), submit_eval("200", name="other", policies=["random"], max_turns=3).id
    work_through()
    learner = submit(spec_of("teacher"))
    with db.reading() as session:
        said = f"^job {learner} begins groups in the play of job {teacher}"
        with pytest.raises(Conflict, match=said):
            curricula.check_unneeded(session, jobs.find(session, teacher))
        curricula.check_unneeded(session, jobs.find(session, other))
    run(engine, learner)
    with db.reading() as session:
        curricula.check_unneeded(session, jobs.find(session, "teacher"))
