"""Which episodes a filter keeps: every key that says so, in both dialects of files, on episodes that were really played."""

from __future__ import annotations

import shutil
import tomllib
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from core.kit import use_settings
from flow import at_home, eval_tables, run_spec, submit
from sqlmodel import Session, col, select, update

from app import db, migrate, specs
from app.errors import ImportNotFound, JobNotFound
from app.models import Episode, FrameRow, Imported, Job, TurnRow
from app.sources import jobs_read
from app.specs import FilterTable
from workers.rollout import lines, selection
from workers.rollout.selection import Candidate, Tally

JANUARY, JUNE = (datetime(2026, month, 15, 12, tzinfo=UTC).timestamp() for month in (1, 6))


@pytest.fixture(scope="session")
def random_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which random actions played three seeds, twelve turns each."""
    with at_home(tmp_path_factory.mktemp("selection") / "home") as folder:
        migrate.upgrade()
        run_spec({**eval_tables(policies="random", seeds="0-2"), "name": "first"})
        return folder


@pytest.fixture
def store(home: Path, random_once: Path) -> Path:
    """Those episodes, in a store that the test may change."""
    shutil.copytree(random_once, home)
    return home


def table_of(text: str) -> FilterTable:
    spec = specs.build(tomllib.loads(text), env={})
    assert isinstance(spec, specs.FilterSpec)
    return spec.filter


def choose(table: FilterTable) -> tuple[list[Candidate], Tally]:
    """What the filter's step chooses."""
    tally = Tally(selection.rules_of(table))
    with db.reading() as session:
        found = jobs_read(session, table)
        ids = None if found is None else [job.id for job in found]
        every = selection.candidates(session, ids, partial(reward_of, session))
        return [candidate for candidate in every if tally.admits(candidate)], tally


def reward_of(session: Session, job_id: str) -> str:
    job = session.get(Job, job_id)
    assert job is not None
    return lines.played(job).reward


def kept(text: str) -> list[int]:
    """Seeds of the episodes that are kept."""
    return [candidate.seed for candidate in choose(table_of(text))[0]]


def change(seed: int | None, **values: Any) -> None:
    """Give one episode other values; None stands for all."""
    with db.writing() as session:
        where = [] if seed is None else [col(Episode.seed) == seed]
        session.connection().execute(update(Episode).where(*where).values(**values))


KEYS: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
    # Key, its two dialects, what all episodes have, and what the second has for which it is left out.
    ("policies", 'policies = ["random"]', 'policies = "random"', {}, {"policy": "scripted:visible"}),
    ("policies", 'policies = "scripted"', "", {"policy": "scripted:reactive"}, {"policy": "script"}),
    ("policies", 'policies = "scripted:visible"', "", {"policy": "scripted:visible"}, {"policy": "scripted:reactive"}),
    ("models", 'models = ["gpt-4o"]', 'models = "gpt-4o"', {"model": "gpt-4o"}, {"model": None}),
    ("models", 'models = ["a", "b"]', "", {"model": "a"}, {"model": "c"}),
    ("splits", 'splits = ["train", "val"]', 'splits = "train"', {}, {"split": "test"}),
    ("task_ids", 'task_ids = ["wood"]', 'task_ids = "wood"', {"task_id": "wood"}, {"task_id": None}),
    ("seeds", 'seeds = "0,2-9"', "seeds = [0, 2]", {}, {}),
    ("min_created_at", "min_created_at = 2026-03-01", "", {"created_at": JUNE}, {"created_at": JANUARY}),
    ("min_created_at", 'min_created_at = "2026-03-01"', "", {"created_at": JUNE}, {"created_at": JANUARY}),
    ("min_created_at", f"min_created_at = {int(JUNE)}", "", {"created_at": JUNE}, {"created_at": JUNE - 0.5}),
    ("max_created_at", "max_created_at = 2026-03-01T00:00:00Z", "", {"created_at": JANUARY}, {"created_at": JUNE}),
    ("min_official_score", "min_official_score = 0.5", "", {"unlocked": 1}, {"unlocked": 0}),
    ("max_official_score", "max_official_score = 2", "", {"unlocked": 2}, {"unlocked": 3}),
    ("min_judge_scores.q", "min_judge_scores.q = 1", "min_verifier_scores.q = 1", {"scores": {"q": 1.0}}, {"scores": {"q": 0.9}}),
    ("min_judge_scores.q", "min_judge_scores = {q = 0}", "", {"scores": {"q": 0.0}}, {"scores": {"r": 1.0}}),
    ("min_judge_scores.q", "min_judge_scores = {q = 0}", "", {"scores": {"q": 0.0}}, {"scores": None}),
    ("max_judge_scores.q", "max_judge_scores.q = 1", "max_verifier_scores.q = 1", {"scores": {"q": 1.0}}, {"scores": {"q": 1.1}}),
    ("max_judge_scores.q", "max_judge_scores = {q = 1}", "", {"scores": {"q": 1.0}}, {"scores": {"q": None}}),
    ("min_return", "min_return = 0.5", "", {"returns": {"unlocked": 1.0}}, {"returns": {"unlocked": 0.0, "native": 9.0}}),
    ("max_return", "max_return = 0.5", "", {"returns": {"unlocked": 0.5}}, {"returns": {"unlocked": 0.6}}),
    ("min_steps", "min_steps = 5", "min_steps_per_episode = 5", {"turns": 5}, {"turns": 4}),
    ("max_steps", "max_steps = 50", "max_steps_per_episode = 50", {"turns": 50}, {"turns": 51}),
    ("min_achievements", "min_achievements = 1", "min_achievements_per_episode = 1", {"unlocked": 1}, {"unlocked": 0}),
    ("max_achievements", "max_achievements = 1", "", {"unlocked": 1}, {"unlocked": 2}),
    ("achievements", 'achievements = ["a", "b"]', "", {"achievements": {"a": 1, "b": 2, "c": 3}}, {"achievements": {"a": 1}}),
    ("filter_errors", "filter_errors = true", "", {}, {"state": "failed", "error": "OSError: no"}),
    ("filter_errors", "filter_errors = true", "", {}, {"outcomes": {"ok": 11, "engine_error": 1}}),
    ("filter_timeouts", "filter_timeouts = true", "", {"ended": "turns"}, {"ended": "time"}),
    (
        "filter_timeouts",
        "filter_timeouts = true\nfilter_errors = false",
        "",
        {"state": "failed", "error": "OSError: no"},
        {"state": "failed", "error": "no reply within the deadline of 120 s"},
    ),
    ("state", "filter_errors = false", "", {"state": "failed"}, {"state": "running"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "text", "every", "second"), [(k, t, e, s) for k, one, two, e, s in KEYS for t in (one, two) if t]
)
def test_a_key_leaves_out_the_episode_that_it_speaks_of(
    store: Path, key: str, text: str, every: dict[str, Any], second: dict[str, Any]
) -> None:
    text = f"[filter]\n{text}"
    if every:
        change(None, **every)
    assert key == "seeds" or kept(text) == [0, 1, 2]
    if second:
        change(1, **second)
    chosen, tally = choose(table_of(text))
    assert [candidate.seed for candidate in chosen] == [0, 2]
    assert {name: count for name, count in tally.removed.items() if count} == {key: 1}
    assert tally.sentence().startswith(f"{key}=")


def test_without_the_key_nothing_of_all_that_is_left_out(store: Path) -> None:
    for _, _, _, _, second in KEYS:
        if second.get("state") != "running" and "error" not in second and "outcomes" not in second and second:
            change(1, **second)
    assert kept("[filter]") == [0, 1, 2]


def show(seed: int, *scenes: tuple[str | None, str]) -> None:
    """Let the turns of an episode have these frames and actions, again and again; a frame of None is left as it is."""
    with db.writing() as session:
        id = session.exec(select(Episode.id).where(Episode.seed == seed)).one()
        for turn in session.exec(select(TurnRow).where(TurnRow.episode_id == id)):
            frame, action = scenes[turn.index % len(scenes)]
            turn.frame, turn.actions = frame or turn.frame, [action]
            session.add(turn)


def frames(count: int) -> list[str]:
    with db.reading() as session:
        return list(session.exec(select(FrameRow.sha256).order_by(FrameRow.sha256).limit(count)))


@pytest.mark.parametrize(
    ("key", "text", "scenes"),
    [
        ("min_unique_states", "min_unique_states = 3", [(0, "do"), (0, "move_left"), (1, "noop"), (1, "do"), (1, "sleep")]),
        ("max_repeated_actions", "max_repeated_actions = 5", [(0, "do")]),
        ("detect_loops", "detect_loops = true", [(0, "move_left"), (1, "move_right")]),
    ],
)
def test_a_key_that_asks_how_it_looked_leaves_out_who_got_stuck(
    store: Path, key: str, text: str, scenes: list[tuple[int, str]]
) -> None:
    assert kept(f"[filter]\n{text}") == [0, 1, 2]
    names = frames(2)
    show(1, *[(names[scene], action) for scene, action in scenes])
    chosen, tally = choose(table_of(f"[filter]\n{text}"))
    assert [candidate.seed for candidate in chosen] == [0, 2]
    assert {name: count for name, count in tally.removed.items() if count} == {key: 1}


def test_turns_are_read_once_and_only_of_episodes_that_passed_all_else(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = selection.episodes.looks
    monkeypatch.setattr(selection.episodes, "looks", lambda session, id: read.append(id) or original(session, id))
    asked = "min_unique_states = 2\nmax_repeated_actions = 11\ndetect_loops = true"
    chosen, _ = choose(table_of(f'[filter]\nseeds = "0-1"\n{asked}'))
    assert read == [candidate.id for candidate in chosen]
    assert len(read) == 2
    read.clear()
    choose(table_of("[filter]\nmin_steps = 5"))
    assert read == []


def test_no_snapshot_is_read(store: Path) -> None:
    change(None, snapshot=b"x" * 1000)
    assert "snapshot" not in selection.episodes._COLUMNS
    assert not any(hasattr(candidate, "snapshot") for candidate in choose(table_of("[filter]"))[0])


def test_episodes_come_by_seed_member_age_and_id(store: Path) -> None:
    run_spec(eval_tables(policies=["random"], seeds="0-1", episodes_per_seed=2, max_turns=2))
    with db.reading() as session:
        rows = session.exec(select(Episode)).all()
    expected = [e.id for e in sorted(rows, key=lambda e: (e.seed, e.member, e.created_at, e.id))]
    assert [candidate.id for candidate in choose(table_of("[filter]"))[0]] == expected


def plays(**table: Any) -> str:
    """A further job, whose one seed is 7; its id."""
    job = run_spec(eval_tables(**{"policies": "random", "seeds": "7", "max_turns": 2, **table}))
    assert job.state == "succeeded", job.reason
    return job.id


@pytest.mark.parametrize(
    ("played", "with_images", "without"),
    [
        ({}, True, True),
        ({"policy_config": {"image_only_mode": True}}, True, False),
        ({"policy_config": {"use_vision": False}}, False, True),
        ({"save_frames": "none"}, False, False),
        ({"save_frames": "none", "policy_config": {"use_vision": False}}, False, True),
    ],
)
def test_episodes_that_do_not_have_the_pictures_or_the_text_are_left_out(
    store: Path, played: dict[str, Any], with_images: bool, without: bool
) -> None:
    plays(**played)
    for wanted, fits in ((True, with_images), (False, without)):
        flag = "true" if wanted else "false"
        chosen, tally = choose(table_of(f"[filter]\ninclude_images = {flag}"))
        assert ([c.seed for c in chosen] == [0, 1, 2, 7]) == fits
        assert tally.removed["include_images"] == (not fits)
        if not fits:
            assert f"include_images={flag} removed 1 of 4 episodes; 1 " in tally.sentence()


def test_jobs_are_named_by_id_start_of_id_and_name_and_the_whole_store_is_the_default(store: Path) -> None:
    other = plays()
    assert kept("[filter]") == [0, 1, 2, 7]
    assert kept('[filter]\njobs = "first"') == [0, 1, 2]
    assert kept(f'[filter]\njobs = ["{other[:-2]}"]') == [7]
    assert kept(f'[filter]\njobs = ["{other}", "first", "{other}"]') == [0, 1, 2, 7]
    with pytest.raises(JobNotFound):
        kept('[filter]\njobs = ["first", "nobody"]')


@pytest.mark.parametrize(
    "db_value",
    [
        "synth_ai.db",
        "traces/v3/synth_ai.db",
        "/home/me/traces/synth_ai.db",
        "sqlite+aiosqlite:///traces/v3/synth_ai.db",
        "sqlite:///synth_ai.db?mode=ro",
        "sqlite+libsql://traces/v3/synth_ai.db",
        "file:traces/v3/synth_ai.db",
        r"C:\\traces\\synth_ai.db",
    ],
)
@pytest.mark.parametrize("key", ["db", "input_db"])
def test_an_imported_file_is_named_by_its_name_its_path_or_its_url(store: Path, key: str, db_value: str) -> None:
    other = plays()
    imported("synth_ai.db", other)
    assert kept(f'[filter]\n{key} = "{db_value}"') == [7]
    assert kept(f'[filter]\n{key} = "{db_value}"\njobs = ["first", "{other}"]') == [7]
    assert kept(f'[filter]\n{key} = "{db_value}"\njobs = "first"') == []
    assert kept(f'[filter]\n{key} = "store"') == [0, 1, 2, 7]


def imported(name: str, *jobs: str) -> None:
    with db.writing() as session:
        session.add(Imported(id=f"imp_{name}", name=name, form="tracing_v3", jobs=list(jobs), counts={}, at=0.0))


def test_a_file_that_nobody_imported_is_told_with_the_way_to_do_it(store: Path) -> None:
    imported("other.db")
    with pytest.raises(ImportNotFound, match=r"'rollouts.db'.*known: 'other.db'.*synthq traces import"):
        kept('[filter]\ninput_db = "traces/rollouts.db"')


SENTENCES = [
    ('splits = ["val"]', "splits=val removed all 3 episodes; there is train"),
    ('models = ["m"]', "models=m removed all 3 episodes; there is none"),
    ("min_steps = 20", "min_steps=20 removed all 3 episodes; the most is 12"),
    ("max_steps = 3", "max_steps=3 removed all 3 episodes; the fewest is 12"),
    ("min_created_at = 2099-01-01", "min_created_at=2099-01-01T00:00:00Z removed all 3 episodes; the latest is 2"),
    ("min_judge_scores = {q = 1}", "min_judge_scores.q=1 removed all 3 episodes; 3 have no score by q"),
    ("min_unique_states = 1000", "min_unique_states=1000 removed all 3 episodes; the most is "),
]


@pytest.mark.parametrize(("text", "said"), SENTENCES)
def test_an_empty_choice_says_how_near_it_came(store: Path, text: str, said: str) -> None:
    chosen, tally = choose(table_of(f"[filter]\n{text}"))
    assert chosen == []
    assert tally.sentence().startswith(said)


def test_the_nearest_score_and_the_unscored_are_told_together(store: Path) -> None:
    change(0, scores={"q": 0.25})
    change(1, scores={"q": 0.5})
    _, tally = choose(table_of("[filter]\nmin_judge_scores = {q = 1}"))
    assert tally.sentence() == "min_judge_scores.q=1 removed all 3 episodes; the most is 0.5 and 1 have no score by q"


def test_faults_are_counted_by_kind(store: Path) -> None:
    change(0, state="failed", error="OSError")
    change(1, outcomes={"engine_error": 1})
    _, tally = choose(table_of("[filter]\nmin_steps = 99"))
    assert tally.sentence() == (
        "filter_errors=true removed 2 of 3 episodes; 1 failed, 1 had a turn that no engine answered, "
        "and min_steps=99 removed 1 of 3 episodes; the most is 12"
    )


def test_either_database_gives_the_same_choice(postgres_store: str, own_home: Path) -> None:
    """The cursor over episodes stays open while turns are read through the same connection."""
    text = '[filter]\nmin_unique_states = 5\nmax_repeated_actions = 6\ndetect_loops = true\nseeds = "0-6"'
    tables = eval_tables(policies=["random", "scripted"], seeds="0-4")

    def chosen() -> list[tuple[int, int, str | None]]:
        run_spec(tables)
        return [(c.seed, c.member, c.sha256) for c in choose(table_of(text))[0]]

    in_postgres = chosen()
    db.dispose()
    with use_settings(SYNTHQ_DATABASE_URL=f"sqlite:///{own_home / 'other.db'}"):
        migrate.upgrade()
        assert chosen() == in_postgres
    assert in_postgres


def test_rows_are_fetched_as_they_are_asked_for(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection.episodes, "ROWS_A_FETCH", 1)
    monkeypatch.setattr(selection.looks, "TURNS_A_FETCH", 2)
    assert kept("[filter]\nmin_unique_states = 3\ndetect_loops = true") == [0, 1, 2]


def test_a_job_that_plays_nothing_has_no_episodes(store: Path) -> None:
    job = submit({"kind": "filter", "filter": {}})
    assert kept(f'[filter]\njobs = "{job.id}"') == []
