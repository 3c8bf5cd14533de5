"""How a filter's summary looks. Pure: no server, no store."""

from __future__ import annotations

from cli import show
from cli.filtered import told

SUMMARY = {
    "episodes": {"seen": 6, "kept": 2},
    "turns": {"read": 1200, "kept": 1100},
    "removed": {
        "episodes": {"policies": 3, "top_share": 1},
        "turns": {"outcomes_ok_only": 90, "turns.drop_noops": 10},
        "lines": {"deduplicate": 100, "sample": 600, "limit": 50},
    },
    "repeated": 200,
    "lines": 550,
    "frames": 550,
    "tokens": 1_000_000,
    "files": [
        {"artifact": "art_1", "kind": "dataset", "name": "train.jsonl", "bytes": 1500, "lines": 500, "side": "train"},
        {"artifact": "art_2", "kind": "dataset", "name": "val.jsonl", "bytes": 150, "lines": 50, "side": "val"},
        {"artifact": "art_3", "kind": "manifest", "name": "dataset.manifest.json", "bytes": 20},
    ],
}


def test_each_key_says_what_it_removed_of_what_came_as_far_as_it() -> None:
    assert told(SUMMARY)[:8] == [
        "KEY               REMOVED  OF",
        "policies          3        6 episodes",
        "top_share         1        3 episodes",
        "outcomes_ok_only  90       1,200 turns",
        "turns.drop_noops  10       1,110 turns",
        "deduplicate       100      1,100 lines",
        "sample            600      1,000 lines",
        "limit             50       600 lines",
    ]


def test_then_what_is_left_and_the_files() -> None:
    assert told(SUMMARY)[8:] == [
        "",
        "episodes  2 of 6",
        "lines     550, 200 of them drawn again",
        "pictures  550",
        "tokens    1,000,000 at the most",
        "",
        "FILE                   LINES  SIZE",
        "train.jsonl            500    1.5 kB",
        "val.jsonl              50     150 B",
        "dataset.manifest.json         20 B",
    ]


def test_a_filter_that_removed_nothing_shows_no_table_of_keys() -> None:
    plain = {**SUMMARY, "removed": {"episodes": {}, "turns": {}, "lines": {}}, "repeated": 0, "files": []}
    assert told(plain)[0] == "episodes  2 of 6"
    assert show.results({"summary": plain}) == told(plain)


def test_a_strange_summary_is_no_reason_to_break() -> None:
    assert told({"removed": 5, "lines": "many", "files": [7, {"name": "a\x1b[0m"}]})[0] == "episodes  0 of 0"
