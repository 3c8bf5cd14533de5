"""Filter specs: one meaning in both dialects of files, and one sentence for each way in which a file can be wrong."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app import specs
from app.errors import SpecProblems
from app.specs.base import Path as KeyPath
from app.specs.filter import SEED_KEYS
from benchmarks.bad_specs import BAD_SPECS, BadSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def made(text: str, *overrides: str) -> specs.FilterTable:
    spec = specs.build(tomllib.loads(text), overrides=overrides, env={})
    assert isinstance(spec, specs.FilterSpec)
    return spec.filter


def value_at(table: specs.FilterTable, path: KeyPath) -> Any:
    found: Any = table.model_dump()
    for part in path:
        found = found[part]
    return found


NEW: list[tuple[str, str, Any]] = [
    # A key of synthq, a value that is not its default as TOML, and what it comes to.
    ("jobs", '["a", "b"]', ("a", "b")),
    ("db", '"x.db"', "x.db"),
    ("policies", '"scripted:visible"', ("scripted:visible",)),
    ("models", '["m"]', ("m",)),
    ("splits", '["train"]', ("train",)),
    ("task_ids", '["t"]', ("t",)),
    ("seeds", '"0-2"', (0, 1, 2)),
    ("min_created_at", "2026-01-31", datetime(2026, 1, 31, tzinfo=UTC).timestamp()),
    ("max_created_at", "2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC).timestamp()),
    ("min_official_score", "0.5", 0.5),
    ("max_official_score", "22", 22.0),
    ("min_judge_scores", "{q = 1}", {"q": 1.0}),
    ("max_judge_scores", "{q = 0.5}", {"q": 0.5}),
    ("min_return", "-1", -1.0),
    ("max_return", "1.5", 1.5),
    ("min_steps", "5", 5),
    ("max_steps", "50", 50),
    ("min_achievements", "1", 1),
    ("max_achievements", "3", 3),
    ("achievements", '["wake_up"]', ("wake_up",)),
    ("filter_errors", "false", False),
    ("filter_timeouts", "true", True),
    ("detect_loops", "true", True),
    ("max_repeated_actions", "5", 5),
    ("min_unique_states", "3", 3),
    ("top_share", "0.5", 0.5),
    ("outcomes_ok_only", "false", False),
    ("turns.drop_noops", "true", True),
    ("turns.drop_empty", "true", True),
    ("turns.before_unlock", "8", 8),
    ("turns.top_share", "0.5", 0.5),
    ("turns.discount", "0.9", 0.9),
    ("relabel", '"scripted"', "scripted"),
    ("rationales", "true", True),
    ("max_sequence_length", "2048", 2048),
    ("deduplicate", "true", True),
    ("conflicts", '"best"', "best"),
    ("sample.by", '"reward"', "reward"),
    ("sample.seed", "1", 1),
    ("shuffle", "true", True),
    ("offset", "3", 3),
    ("limit", "9", 9),
    ("split.enabled", "true", True),
    ("split.val_fraction", "0.2", 0.2),
    ("split.seed", "7", 7),
    ("split.stratify_by", '"policy"', "policy"),
    ("split.train_file", '"a.jsonl"', "a.jsonl"),
    ("split.val_file", '"b.jsonl"', "b.jsonl"),
    ("include_images", "false", False),
    ("include_metadata", "false", False),
    ("format", '"openai"', "openai"),
    ("save_stats", "false", False),
    ("stats_file", '"s.json"', "s.json"),
    ("save_episode_ids", "true", True),
    ("output", '"a.json"', "a.json"),
    ("output_dir", '"out"', "out"),
]
ALONE = "shuffle_seed"
NEEDY = {ALONE, "sample.lines"}
"""Need another key beside them."""


def test_every_key_of_a_filter_is_tried_here() -> None:
    def keys(table: type[Any], before: str = "") -> set[str]:
        found = set()
        for name, field in table.model_fields.items():
            inner = field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, specs.Table) else None
            found |= keys(inner, f"{name}.") if inner else {before + name}
        return found

    assert {key for key, _, _ in NEW} | NEEDY == keys(specs.FilterTable)


@pytest.mark.parametrize(("key", "text", "value"), NEW, ids=[key for key, _, _ in NEW])
def test_a_key_is_taken_and_is_not_the_default(key: str, text: str, value: Any) -> None:
    path = tuple(key.split("."))
    assert value_at(made(f"[filter]\n{key} = {text}"), path) == value
    if key != "format":
        assert value_at(made("[filter]"), path) != value


@pytest.mark.parametrize("old", list(SEED_KEYS.aliases))
def test_the_other_dialects_key_is_the_same_key(old: str) -> None:
    new = SEED_KEYS.aliases[old].removeprefix("filter.")
    text = "7" if new == ALONE else next(text for key, text, _ in NEW if key == new)
    beside = "shuffle = true\n" if new == ALONE else ""
    table, _, key = old.rpartition(".")
    theirs = f"[{table}]\n{beside}{key} = {text}" if table != "filter" else f"[filter]\n{beside}{key} = {text}"
    assert made(theirs if "[filter]" in theirs else f"[filter]\n{theirs}") == made(f"[filter]\n{beside}{new} = {text}")


def test_the_other_dialect_has_its_own_word_for_the_form_of_a_line() -> None:
    assert made('[filter]\nexport_format = "sft_jsonl"').format == "openai"
    assert made('[filter]\nformat = "sft_jsonl"').format == "openai"


def test_a_file_with_the_other_dialects_tables_is_a_filter_file() -> None:
    text = "[filter]\n[sft]\ndeduplicate = true\n[split]\n[output]\n"
    assert specs.build(tomllib.loads(text), env={}).kind == "filter"
    assert made(text).deduplicate
    assert made("[filter]\n[sft]\n[split]\n[output]\n") == made("[filter]"), "empty tables say nothing"


def test_origins_and_flags_go_by_the_key_that_was_written(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[filter]\n[sft]\ndeduplicate = true\n[split]\nval_fraction = 0.3\n")
    loaded = specs.read(
        file, overrides=["split.enabled=true", "filter.deduplicate=false", "filter.min_created_at=2026-01-31"], env={}
    )
    assert isinstance(loaded.spec, specs.FilterSpec)
    table = loaded.spec.filter
    assert (table.deduplicate, table.split.enabled, table.split.val_fraction) == (False, True, 0.3)
    assert table.min_created_at == datetime(2026, 1, 31, tzinfo=UTC).timestamp()
    origins = loaded.origins()
    assert origins["filter.split.val_fraction"] == f"{file}:5"
    assert origins["filter.split.enabled"] == origins["filter.deduplicate"] == "--set"


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31",
        "2026-01-31T00:00:00",
        "2026-01-31T00:00:00Z",
        "2026-01-31T01:00:00+01:00",
        '"2026-01-31"',
        '"2026-01-31T00:00:00Z"',
        '" 2026-01-31 00:00:00 "',
        "1769817600",
        "1769817600.0",
    ],
)
def test_a_time_may_be_written_as_a_date_a_text_or_seconds(text: str) -> None:
    table = made(f"[filter]\nmin_created_at = {text}\nmax_created_at = {text}")
    assert table.min_created_at == table.max_created_at == 1769817600.0


@pytest.mark.parametrize(
    ("db", "name"),
    [
        ("store", "store"),
        ("synth_ai.db", "synth_ai.db"),
        ("traces/v3/synth_ai.db", "synth_ai.db"),
        ("sqlite+aiosqlite:///traces/v3/synth_ai.db", "synth_ai.db"),
        ("sqlite:////abs/synth_ai.db", "synth_ai.db"),
        ("sqlite+libsql://traces/synth_ai.db", "synth_ai.db"),
        ("file:synth_ai.db?mode=ro", "synth_ai.db"),
        ("C:\\traces\\synth_ai.db", "synth_ai.db"),
        ("postgresql://host/synth", "postgresql://host/synth"),
    ],
)
def test_a_database_is_named_as_its_import_is(db: str, name: str) -> None:
    assert specs.parse("filter", {"filter": {"db": db}}).filter.db == name  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", BAD_SPECS, ids=lambda bad: bad.name)
def test_a_file_with_one_mistake_is_answered_with_one_sentence(bad: BadSpec, tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(bad.text)
    with pytest.raises(SpecProblems) as caught:
        specs.load(file, env={})
    assert [str(problem).replace(f"{file}:", "").strip() for problem in caught.value.problems] == [bad.said]
    assert "secret@" not in str(caught.value), "a password is repeated nowhere"


def test_bad_files_have_names_of_their_own() -> None:
    assert len({bad.name for bad in BAD_SPECS}) == len(BAD_SPECS) == len({bad.text for bad in BAD_SPECS})


def differences(one: str, other: str) -> dict[str, tuple[Any, Any]]:
    """What two configs come to, where it is not the same, by key."""

    def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            found |= flat(value, f"{before}{key}.") if isinstance(value, dict) and value else {f"{before}{key}": value}
        return found

    ours, theirs = (flat(specs.resolved(specs.load(CONFIGS / name, env={}))) for name in (one, other))
    return {key: (ours.get(key), theirs.get(key)) for key in ours | theirs if ours.get(key) != theirs.get(key)}


def test_the_followed_projects_vision_files_come_to_their_values() -> None:
    table = made((CONFIGS / "filter_vision_sft.toml").read_text())
    assert (table.min_steps, table.max_steps, table.min_achievements) == (5, 50, 0)
    assert (table.max_repeated_actions, table.min_unique_states, table.max_sequence_length) == (5, 3, 2048)
    assert (table.deduplicate, table.shuffle, table.outcomes_ok_only, table.turns.drop_empty) == (True, True, True, True)
    assert (table.split.enabled, table.split.val_fraction, table.split.seed) == (True, 0.1, 42)
    assert (table.split.train_file, table.split.val_file, table.stats_file) == ("train.jsonl", "val.jsonl", "filter_stats.json")
    assert (table.save_stats, table.save_episode_ids, table.split.stratify_by) == (True, True, "achievements")
    spec = specs.load(CONFIGS / "eval_gpt4o_vision_proper.toml", env={})
    assert isinstance(spec, specs.EvalSpec)
    asked, shown = spec.eval, spec.eval.policy_config
    assert (asked.seeds, asked.max_turns, asked.max_llm_calls, asked.concurrency) == (tuple(range(10)), 50, 50, 2)
    assert (shown.top_p, shown.max_tokens, shown.use_vision, shown.image_only_mode) == (0.95, 512, True, False)
    assert (shown.use_tools, shown.endpoint, shown.key_variable) == (True, "https://api.openai.com/v1", "OPENAI_API_KEY")
    assert asked.budget.max_usd is not None, "it costs money, so it has a cap"


def test_a_twin_without_a_key_differs_in_who_plays_alone() -> None:
    who = {"policies", "model", "max_llm_calls", "temperature", "policy_config", "budget"}
    changed = differences("eval_gpt4o_vision_proper.toml", "eval_scripted_vision_proper.toml")
    assert {key.split(".")[1] for key in changed if key != "name"} <= who
    assert {key for key in changed if "policy_config" in key} == {"eval.policy_config.provider", "eval.policy_config.top_p"}
    assert set(differences("filter_vision_sft.toml", "filter_vision_sft_offline.toml")) == {
        "name",
        "filter.jobs",
        "filter.output_dir",
    }
