"""What `submit` makes of its flags before any request: overrides, sentences, exit codes. There is no server."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from console import Synthq, unused_port

from app.errors import BadFlag
from cli.flags import Overrides, parse_object, quoted, toml

EVAL = ("submit", "eval", "--seeds", "0-9")


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server anywhere, and an empty folder to work in."""
    monkeypatch.setenv("SYNTHQ_URL", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("value", [True, 3, -2.5, 1e300, 'a "b" \\ \n \x7f é 🎮', ["x", 1], {"k 1": {"z": [True]}}, [], {}, ""])
def test_a_value_of_json_keeps_its_meaning_in_toml(value: object) -> None:
    assert tomllib.loads(f"value = {toml(value, '--f')}")["value"] == value


@pytest.mark.parametrize("text", ["null", '{"a": null}', "[null]"])
def test_null_is_refused(text: str) -> None:
    import json

    with pytest.raises(BadFlag, match="gives null"):
        toml(json.loads(text), "--f")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"use_vision": True}', "expecting value at character 16, near 'True}'"),
        ('{"a": 1', "where the text ends"),
        ("", "expecting value at character 1, where the text ends"),
        ("use_vision", "at character 1, near 'use_vision'"),
        ('{\n "a": x}', "at line 2, character 7"),
        ("[1]", "[1] is not an object"),
        ('{"a": NaN}', "NaN, which is no number of JSON"),
        ('{"a": 1, "a": 2}', "--policy-config gives the key 'a' twice in one object; keep one"),
        ("[" * 100_000, "nested too deep"),
        ('{"a": ' + "9" * 5000 + "}", "too many digits"),
    ],
)
def test_bad_json_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(BadFlag) as caught:
        parse_object(text, "--policy-config")
    assert said in str(caught.value)
    assert str(caught.value).startswith("--policy-config")


@pytest.mark.parametrize(("key", "part"), [("use_vision", "use_vision"), ("a b", '"a b"'), ("a.b", '"a.b"'), ("", '""')])
def test_a_key_becomes_one_part_of_a_path(key: str, part: str) -> None:
    assert quoted(key, "--f") == part


def test_flags_that_were_not_given_override_nothing() -> None:
    given = Overrides()
    given.add("--env", "eval.env", None)
    given.add("--policy", "eval.policies", ())
    given.add_object("--policy-config", "eval.policy_config", None)
    assert given.texts(["eval.seeds=1"]) == ["eval.seeds=1"]


def test_flags_alone_make_a_whole_spec(synthq: Synthq) -> None:
    flags = ["--env", "crafter", "--policy", "scripted,random", "--policy-config", '{"history": 1}', "--name", "n"]
    ran = synthq(*EVAL, *flags, "--dry-run", "--json")
    assert ran.code == 0
    table = ran.json["spec"]["eval"]
    assert table["policies"] == ["scripted", "random"]
    assert table["seeds"] == list(range(10))
    assert (table["policy_config"]["history"], table["policy_config"]["use_vision"]) == (1, True)
    assert (ran.json["schema_version"], ran.json["kind"], ran.json["name"]) == (1, "eval", "n")
    assert len(ran.json["spec_sha256"]) == 64


def test_repeated_and_listed_policies_are_the_same(synthq: Synthq) -> None:
    listed = synthq(*EVAL, "--policy", "scripted, random", "--dry-run", "--json").json
    assert synthq(*EVAL, "--policy", "scripted", "--policy", "random", "--dry-run", "--json").json == listed


def test_flags_win_over_the_file_and_leave_the_rest_of_a_table_alone(synthq: Synthq) -> None:
    Path("a.toml").write_text('[eval]\nseeds = "0-3"\nmax_turns = 7\n[eval.policy_config]\nhistory = 5\nmax_actions = 2\n')
    flags = ["--seeds", "8", "--policy-config", '{"history": 0}', "--set", "eval.concurrency=2"]
    table = synthq("submit", "eval", "a.toml", *flags, "--dry-run", "--json").json["spec"]["eval"]
    assert (table["seeds"], table["max_turns"], table["concurrency"]) == ([8], 7, 2)
    assert (table["policy_config"]["history"], table["policy_config"]["max_actions"]) == (0, 2)


def test_config_may_be_positional_or_a_flag(synthq: Synthq) -> None:
    Path("a.toml").write_text('[eval]\nseeds = "0-3"\n')
    first = synthq("submit", "eval", "a.toml", "--dry-run", "--json")
    assert first.code == 0
    for words in (
        ("submit", "eval", "--config", "a.toml"),
        ("eval", "--config", "a.toml"),
        ("eval", "a.toml", "--config", "a.toml"),
    ):
        assert synthq(*words, "--dry-run", "--json").json == first.json


def test_a_dry_run_prints_a_spec_that_can_be_submitted_and_its_hash(synthq: Synthq) -> None:
    ran = synthq(*EVAL, "--dry-run")
    sha256 = synthq(*EVAL, "--dry-run", "--json").json["spec_sha256"]
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == f"# sha256: {sha256}"
    assert "nothing was submitted" in ran.err
    Path("printed.toml").write_text(ran.out)
    assert synthq("submit", "eval", "printed.toml", "--dry-run").out == ran.out


def test_warnings_go_to_stderr_and_into_the_json(synthq: Synthq) -> None:
    ran = synthq("submit", "filter", "--set", "filter.outcomes_ok_only=false", "--dry-run", "--json")
    assert ran.code == 0
    assert any("outcomes_ok_only" in warning for warning in ran.json["warnings"])
    assert "warning: filter.outcomes_ok_only" in ran.err


def test_every_problem_of_a_file_shows_at_once_with_its_line(synthq: Synthq) -> None:
    Path("bad.toml").write_text('[eval]\nseeds = "0-9"\nmax_turn = 5\nreward = "most"\n')
    ran = synthq("submit", "eval", "bad.toml")
    assert ran.code == 2
    assert "bad.toml:3: eval.max_turn" in ran.err
    assert "max_turns" in ran.err
    assert "bad.toml:4: eval.reward" in ran.err
    assert ran.out == ""


BAD = {
    "no spec at all": ("submit eval", "eval.seeds: "),
    "bad seeds": ("submit eval --seeds 0-x", "(from --seeds)"),
    "bad env value of a set": ("submit eval --seeds 1 --set eval.seeds=x", "(from --set)"),
    "a set without =": ("submit eval --seeds 1 --set eval.seeds", "has no '='"),
    "an unknown key": ("submit eval --seeds 1 --set eval.max_turn=3", "max_turns"),
    "a policy twice": ("submit eval --seeds 1 --policy random,random", "names a policy twice (from --policy)"),
    "a model": ("submit eval --seeds 1 --model gpt-4o", "needs policy_config.provider or policy_config.inference_url"),
    "an unknown key of the policy": ('submit eval --seeds 1 --policy-config {"use_visio":true}', "(from --policy-config)"),
    "bad json": ("submit eval --seeds 1 --policy-config {true}", "--policy-config is not JSON"),
    "a bad name": ("submit eval --seeds 1 --name -", "(from --name)"),
    "a label without a value": ("submit eval --seeds 1 --label a", "--label a is no label"),
    "a label twice": ("submit eval --seeds 1 --label a=1 --label a=2", "given twice"),
    "after without when": ("submit eval --seeds 1 --after job_1", "it takes ok:JOB"),
    "after with another when": ("submit eval --seeds 1 --after failed:job_1", "it takes ok:JOB"),
    "two files": ("submit eval a.toml --config b.toml", "named twice"),
    "no such file": ("submit eval nothing.toml", "nothing.toml: there is no such file"),
    "a folder": ("submit eval .", "is a folder"),
    "json and id-only": ("submit eval --seeds 1 --json --id-only", "keep one"),
    "no kind": ("submit a.toml", "write `synthq submit eval|filter|sft|rl [CONFIG]`"),
    "lines that are not here": ("submit sft --model M --data d.jsonl", "there is no file d.jsonl"),
    "train on lines that are not here": ("train --type sft --model M --data d.jsonl", "there is no file d.jsonl"),
    "train of nothing": ("train", "--type sft or --type rl"),
    "train of another type": ("train --type dpo", "'dpo'"),
    "iterations of nothing": ("train --type rl --iterations 0", "0"),
    "an unknown flag": ("submit eval --sedes 1", "--seeds"),
    "an unknown command": ("sumbit eval", "did you mean 'submit'"),
    "cancel of nothing": ("cancel", "cancel takes JOB... or --all"),
    "cancel of both": ("cancel job_1 --all", "and not both"),
    "a state alone": ("cancel job_1 --state queued", "goes with --all"),
    "a time that is none": ("wait job_1 --timeout soon", "30s, 10m, 2h"),
    "a negative time": ("wait job_1 --timeout=-3s", "30s, 10m, 2h"),
    "a label to list by": ("list --label a", "it takes KEY=VALUE"),
    "an unknown state": ("list --state done", "'done'"),
    "a level that is none": ("logs --level debug", "'debug'"),
    "a replay of another kind": ("traces replay ep_1 -o x.mp4", "a .gif or a .png"),
    "an export without a file": ("traces export ep_1", "--output"),
    "a key that is none": ("key revoke ..", "takes the id of a key"),
    "a port": ("up --port 70000", "70000"),
    "no slots": ("worker rollout --concurrency 0", "0"),
}


@pytest.mark.parametrize(("line", "said"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_right_exits_2_with_a_sentence(synthq: Synthq, line: str, said: str) -> None:
    ran = synthq(*line.split())
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) < 8


@pytest.mark.parametrize(
    ("type_line", "key"),
    [('kind = "rl"\n', "model:"), ("[rollout]\nmax_turns = 3\n", "model:"), ("[job]\nmodel = '/m'\n", "sft.data")],
)
def test_train_takes_its_type_from_the_file(synthq: Synthq, type_line: str, key: str) -> None:
    Path("c.toml").write_text(type_line)
    ran = synthq("train", "--config", "c.toml")
    assert ran.code == 2
    assert key in ran.err


def test_the_seed_s_own_baseline_command_is_understood(synthq: Synthq) -> None:
    flags = ["--env", "crafter", "--seeds", "0-9", "--policy-config", '{"use_vision": true, "image_only_mode": true}']
    ran = synthq("eval", *flags, "--dry-run", "--json")
    assert ran.code == 0
    assert ran.json["spec"]["eval"]["policy_config"]["image_only_mode"] is True


def test_a_folder_of_a_model_is_found_from_here(synthq: Synthq) -> None:
    Path("tiny").mkdir()
    whole = str(Path("tiny").absolute())
    for flags in (["--model", "tiny"], ["--model", "./tiny"], ["--policy", "model:tiny"]):
        ran = synthq("submit", "eval", "--seeds", "1", *flags, "--dry-run", "--json")
        assert ran.json["spec"]["eval"]["policies"] == [f"model:{whole}"]
    for missing in ("./none", "tiny/none"):
        assert f"there is no folder {missing}" in synthq("submit", "eval", "--seeds", "1", "--model", missing, "--dry-run").err


def test_model_takes_the_place_of_the_one_model_that_a_file_has_play(synthq: Synthq, tmp_path: Path) -> None:
    def policies(written: str, *flags: str) -> Any:
        (tmp_path / "e.toml").write_text(f"[eval]\nseeds = 1\npolicies = {written}\n")
        return synthq("submit", "eval", tmp_path / "e.toml", "--dry-run", "--json", "--model", "/b", *flags)

    ran = policies('["random", "model:/a"]')
    assert (ran.json["spec"]["eval"]["policies"], ran.json["spec"]["eval"]["model"]) == (["random", "model:/b"], "/b")
    assert policies('"model:/a"').json["spec"]["eval"]["policies"] == ["model:/b"]
    several = policies('["model:/a", "model:/c"]')
    assert several.code == 2
    assert '"/b" is asked by none of the policies; write policies = ["model:/a", "model:/c", "model:/b"]' in several.err
    none = policies('["random"]')
    assert 'write policies = ["random", "model:/b"] (from --model)' in none.err
    assert policies('["model:/a"]', "--policy", "random").code == 2, "both flags are taken at their word"
