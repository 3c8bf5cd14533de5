"""What a file comes to, and the sentence for each way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import specs
from app.errors import SpecProblems, UnknownKind
from app.specs.base import BASE_URL, NAME, PATTERNS
from app.specs.source import MAX_BYTES


def wrong(text: str | bytes, tmp_path: Path, **more: Any) -> list[str]:
    """The problems of a file, without the path of the file."""
    file = tmp_path / "spec.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecProblems) as caught:
        specs.load(file, **more)
    return [str(problem).replace(f"{file}:", "").strip() for problem in caught.value.problems]


def eval_wrong(lines: str, tmp_path: Path, **more: Any) -> list[str]:
    """The problems of an eval spec whose seeds are right; ``lines`` begin on line 3."""
    return wrong(f"[eval]\nseeds = 1\n{lines}\n", tmp_path, **more)


def test_every_problem_is_told_at_once_with_file_line_key_and_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(
        "# a comment\n[eval]\nseeds = '9-0'\nsedes = 3\nmax_turns = '10'\n[eval.policy_config]\nuse_vision = false\n"
        "image_only_mode = true\n[eval.env_config]\nimage_size = 200\ndifficulty = 'easy'\n"
    )
    with pytest.raises(SpecProblems) as caught:
        specs.load(file)
    assert [(p.file, p.line, p.key) for p in caught.value.problems] == [
        (str(file), 3, "eval.seeds"),
        (str(file), 4, "eval.sedes"),
        (str(file), 5, "eval.max_turns"),
        (str(file), 8, "eval.policy_config.image_only_mode"),
        (str(file), 10, "eval.env_config.image_size"),
        (str(file), 11, "eval.env_config.difficulty"),
    ]
    text = str(caught.value)
    assert text.startswith("6 problems in the spec:")
    assert f"{file}:3: eval.seeds: seeds '9-0' runs backwards; write 0-9" in text
    assert f"{file}:4: eval.sedes: no such key; did you mean 'seeds'?" in text
    assert 'must be a whole number, not "10"; write 10 without quotes' in text
    assert "must be 144 or less, not 200" in text
    assert "Crafter has no difficulty; remove the key" in text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("max_turns = true", "3: eval.max_turns: must be a whole number, not true"),
        ("max_turns = 10.0", "3: eval.max_turns: must be a whole number, not 10.0"),
        ("max_turns = 0", "3: eval.max_turns: must be 1 or more, not 0"),
        ("concurrency = 1025", "3: eval.concurrency: must be 1024 or less, not 1025"),
        ("episodes_per_seed = 1001", "3: eval.episodes_per_seed: must be 1000 or less, not 1001"),
        ("temperature = true", "3: eval.temperature: must be a number, not true"),
        ("temperature = nan", "3: eval.temperature: must be a finite number, not nan"),
        ("temperature = inf", "3: eval.temperature: must be a finite number, not inf"),
        ("invalid_penalty = 1", "3: eval.invalid_penalty: must be 0 or less, not 1"),
        ("env = 3", '3: eval.env: must be text, not 3; write "3" with quotes'),
        ("env = ''", '3: eval.env: must be text that is not empty, not ""'),
        ("env = 1979-05-27", "3: eval.env: must be text, a number, true or false, a list or a table, not a date"),
        ("policies = []", "3: eval.policies: must be a list of 1 or more, not []"),
        ("policies = ['random', 3]", '3: eval.policies.1: must be text, not 3; write "3" with quotes'),
        ("policies = ['random', 'random']", '3: eval.policies: ["random", "random"] names a policy twice'),
        (
            "policies = [\n'random',\n'a/b']",
            '5: eval.policies.1: "a/b" is no policy; a model plays as openai:MODEL',
        ),
        ("policies = {a = 1}", "3: eval.policies: must be a list, not a table with a"),
        ("reward = 'x'", '3: eval.reward: must be "native", "unlocked", "consistent" or "per_achievement", not "x"'),
        ("policies = 'openai'", "3: eval.policies: openai needs a model: write openai:MODEL, or set eval.model"),
        (
            "policies = ['openai:x']",
            '3: eval.policies.0: "openai:x" needs policy_config.provider (openai, groq, openrouter) or '
            "policy_config.inference_url",
        ),
        (
            "policies = 'scripted:all'",
            "3: eval.policies: scripted has no view 'all' (it has omniscient, visible, reactive)",
        ),
        ("policies = 'random:x'", '3: eval.policies: random has no variants, so not "random:x"'),
        (
            "policies = 'random'\nmodel = 'x'",
            '4: eval.model: "x" is asked by none of the policies; write policies = ["random", "model:x"]',
        ),
        ("policy_options.random.actions_per_turn = 1", "3: eval.policy_options.random: 'random' does not play here"),
        ("policy_options.scripted.open_loop_k = 9", "3: eval.policy_options.scripted.open_loop_k: must be 8 or less, not 9"),
        ("split = 'a b'", f'3: eval.split: must be {PATTERNS[NAME]}, not "a b"'),
        (
            "task_app_url = 'localhost:8001'",
            f'3: eval.task_app_url: must be {PATTERNS[BASE_URL]}, not "localhost:8001"',
        ),
        (
            "task_app_url = 'http://h:1/?key=k'",
            f'3: eval.task_app_url: must be {PATTERNS[BASE_URL]}, not "http://h:1/?key=k"',
        ),
        (
            "budget.max_usd = 3",
            "3: eval.budget.max_usd: 3 can be held only with prices; give input_usd_per_million and output_usd_per_million",
        ),
        (
            "task_app_url = 'http://h:8001'\nbudget.max_tokens = 3",
            "4: eval.budget: a cap cannot be held where a task app asks the model; remove task_app_url or the cap",
        ),
        (
            "policy_config.supports_vision = false",
            "3: eval.policy_config.supports_vision: false does not agree with use_vision = true: the model would be shown no "
            "picture; make all vision flags agree",
        ),
        (
            "policy_config.use_vision = false\npolicy_config.max_images_per_message = 1",
            "4: eval.policy_config.max_images_per_message: 1 does not agree with use_vision = false: there is no picture to "
            "show; make all vision flags agree",
        ),
        (
            "policies = 'openai:x'\npolicy_config.provider = 'groq'\npolicy_config.inference_url = 'http://x/v1'",
            '5: eval.policy_config.inference_url: provider = "groq" has an address of its own; keep one of the two',
        ),
        ("policy_config = 3", "3: eval.policy_config: must be a table, not 3"),
        (
            "policy_config.use_vision = 'true'",
            '3: eval.policy_config.use_vision: must be true or false, not "true"; write true without quotes',
        ),
        ("policy_config.use_vision = 1", "3: eval.policy_config.use_vision: must be true or false, not 1"),
        ("policy_config.max_actions = 9", "3: eval.policy_config.max_actions: must be 8 or less, not 9"),
        ("policy_config.top_p = 0", "3: eval.policy_config.top_p: must be more than 0, not 0"),
        ("env_config = 3", "3: eval.env_config: must be a table, not 3"),
        ("env_config.area = [64, 32]", "3: eval.env_config.area.1: must be 64, not 32"),
        ("env_config.image_size = 8", "3: eval.env_config.image_size: must be 9 or more, not 8"),
        ("env_config.upscale_to = 32", "3: eval.env_config.upscale_to: 32 is less than image_size = 64; a frame is never shrunk"),
        ("env_config.imagesize = 32", "3: eval.env_config.imagesize: no such key; did you mean 'image_size'?"),
        ("image_size = 32", "3: eval.image_size: no such key in [eval]; did you mean 'eval.env_config.image_size'?"),
        (
            "[eval.policy_config]\nmax_turns = 3",
            "4: eval.policy_config.max_turns: no such key in [eval.policy_config]; did you mean 'eval.max_turns'?",
        ),
        (
            "env_config.step_rewards.weights.collect_wod = 1",
            "3: eval.env_config.step_rewards.weights.collect_wod: Crafter has no achievement 'collect_wod'; "
            "did you mean 'collect_wood'?",
        ),
        (
            "env_config.step_rewards.k_limits.wake_up = -1",
            "3: eval.env_config.step_rewards.k_limits.wake_up: must be 0 or more, not -1",
        ),
        (
            "policy_config.image_only_mode = true\npolicy_config.history = 2",
            "4: eval.policy_config.history: 2 turns of text cannot be told in image_only_mode; write history = 0",
        ),
        (
            "policy_config.use_tools = false",
            '3: eval.policy_config.use_tools: false goes with reply_format = "text", not "tool_call"',
        ),
        ("max_turns = 9223372036854775808", "3: eval.max_turns: is a whole number of more than 64 bits"),
        ('env = "a\\u0000b"', "3: eval.env: has a NUL character, which cannot be stored"),
    ],
)
def test_a_wrong_value_is_one_problem_with_its_line_and_what_would_be_right(lines: str, said: str, tmp_path: Path) -> None:
    assert eval_wrong(lines, tmp_path) == [said]


@pytest.mark.parametrize(
    "lines",
    [
        "model = 'm'",
        "policies = 'crafter-react'\npolicy_config.model = 'm'",
        "policies = ['openai']\nmodel = 'm'",
        "policies = 'openai:m'",
    ],
)
def test_a_model_is_named_in_any_of_four_ways(lines: str, tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(f"[eval]\nseeds = 1\npolicy_config.inference_url = 'http://h/v1'\n{lines}\n")
    spec = specs.load(file)
    assert isinstance(spec, specs.EvalSpec)
    assert spec.eval.policies == ("openai:m",)


def test_an_unknown_key_far_from_all_names_the_keys_there_are(tmp_path: Path) -> None:
    [problem] = eval_wrong("qqqqq = 1", tmp_path)
    assert "no such key in [eval] (known there: env, engine, max_turns," in problem


def test_a_needed_key_is_named_with_an_example(tmp_path: Path) -> None:
    assert wrong("[eval]\n", tmp_path) == ['1: eval.seeds: is needed and not given, such as "0-9"']


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"# only a comment\n", 'nothing says what kind of job this is; write kind = "eval"'),
        (b"\x00\x01\x02", "NUL byte"),
        ("[eval]\nseeds='0'".encode("utf-16"), "NUL byte"),
        ("[eval]\n# é".encode("latin-1"), "2: is not UTF-8 (byte 0xe9)"),
        (b"[eval]\nseeds = \n", "2: not valid TOML: invalid value (column 9)"),
        (b"[eval]\nseeds = 1\nseeds = 2", "3: not valid TOML: this key, or the table around it, is there already"),
        (b"[eval\n", "1: not valid TOML: expected ']'"),
        (b"a = " + b"9" * 5000, "has a whole number of more than 64 bits"),
        (b"a = " + b"[" * 20000, "is nested too deep to be read"),
        (b"[eval]\na = " + b"[" * 100 + b"]" * 100, "is nested more than 16 levels deep"),
        (b".".join([b"a"] * 400_000) + b" = 1", "1: has a key of more than 100 parts"),
        (b"#" * (MAX_BYTES + 1), "is larger than 1,000,000 bytes"),
        (b"eval = 3", "1: eval: must be a table, not 3"),
        (b"kind = 3", "1: kind: must be text, one of eval, filter, sft, rl, not 3"),
        (b"kind = 'evl'", "1: kind: no job kind named 'evl'; did you mean 'eval'?"),
        (b"[eval]\nseeds = 1\n[filter]\n", "there are tables for eval and filter; make a file of each"),
        (b"schema_version = 2\n[eval]\nseeds = 1", "1: schema_version: must be 1, not 2"),
        (b"name = 'a b'\n[eval]\nseeds = 1", "1: name: must be 1 to 80 letters, digits, dots, dashes and underscores"),
    ],
)
def test_a_file_that_is_no_spec_gets_a_sentence(data: bytes, said: str, tmp_path: Path) -> None:
    [problem] = wrong(data, tmp_path)
    assert said in problem


def test_a_path_that_cannot_be_read_gets_a_sentence(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "none.toml", "no such file"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ):
        with pytest.raises(SpecProblems, match=said):
            specs.load(path)


def test_a_bom_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_bytes(b"\xef\xbb\xbf[eval]\nseeds = 1\n")
    assert specs.load(file).kind == "eval"


def test_a_file_of_another_kind_is_told_as_that(tmp_path: Path) -> None:
    [problem] = wrong("[filter]\n", tmp_path, kind="eval")
    assert problem.endswith("kind: this is a spec for filter, and eval was asked for")


def test_a_kind_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnknownKind, match="did you mean 'filter'"):
        specs.build({}, kind="filtr")
    with pytest.raises(UnknownKind):
        specs.parse("", {})


def test_a_file_with_very_many_problems_tells_some_and_counts_the_rest(tmp_path: Path) -> None:
    problems = eval_wrong("\n".join(f"k{i} = 1" for i in range(5000)), tmp_path)
    assert len(problems) == 101
    assert problems[-1].endswith("and 4,900 problems more")


def test_flags_alone_make_a_spec() -> None:
    spec = specs.build({"eval": {"seeds": "0-9"}}, overrides=["eval.policies=random"], env={})
    assert isinstance(spec, specs.EvalSpec)
    assert (spec.episodes, spec.eval.policies) == (10, ("random",))


def test_parse_is_strict_and_names_dotted_keys() -> None:
    with pytest.raises(SpecProblems) as caught:
        specs.parse("eval", {"eval": {"seeds": "0", "policy_config": {"use_vision": "yes"}}, "kind": "filter"})
    assert [p.key for p in caught.value.problems] == ["kind"]
    with pytest.raises(SpecProblems) as caught:
        specs.parse("eval", {"eval": {"seeds": "0", "policy_config": {"use_vision": "yes"}}})
    assert [p.key for p in caught.value.problems] == ["eval.policy_config.use_vision"]


@pytest.mark.parametrize("posted", [[], 3, None, "x"])
def test_parse_of_what_is_no_object_gets_a_sentence(posted: Any) -> None:
    with pytest.raises(SpecProblems, match="a spec is an object of tables"):
        specs.parse("eval", posted)


def test_parse_refuses_what_the_store_could_not_keep() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    for value, said in (
        ("\ud800", "surrogate"),
        ("a\0", "NUL"),
        (deep, "16 levels"),
        ({3: 1}, "key that cannot"),
        (object(), "not a object"),
    ):
        with pytest.raises(SpecProblems, match=said):
            specs.parse("eval", {"eval": {"seeds": "0", "env": "elsewhere", "env_config": {"x": value}}})


def test_parse_expands_nothing() -> None:
    spec = specs.parse("eval", {"eval": {"seeds": 1, "env": "${HOME}"}})
    assert isinstance(spec, specs.EvalSpec)
    assert spec.eval.env == "${HOME}"


def test_another_packages_environment_has_settings_of_its_own() -> None:
    spec = specs.build({"eval": {"seeds": 1, "env": "minecraft", "env_config": {"a": {"b": [1, 2.5, "x"]}}}}, env={})
    assert isinstance(spec, specs.EvalSpec)
    assert spec.eval.env_settings() == {"a": {"b": [1, 2.5, "x"]}}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("min_return = 2.0\nmax_return = 1", "2: filter.min_return: 2.0 is more than max_return = 1.0, so nothing can pass"),
        ("top_share = 0", "2: filter.top_share: must be more than 0, not 0"),
        ("top_share = 1.1", "2: filter.top_share: must be 1 or less, not 1.1"),
        ("limit = 0", "2: filter.limit: must be 1 or more, not 0"),
        ("output = 'a.csv'", '2: filter.output: must be a path that ends in .jsonl or .json, not "a.csv"'),
        ("seeds = '3-1'", "2: filter.seeds: seeds '3-1' runs backwards; write 1-3"),
        ("jobs = ['']", '2: filter.jobs.0: must be text that is not empty, not ""'),
        ("shuffle_seed = 7", "2: filter.shuffle_seed: 7 is read only with shuffle = true"),
        (
            "split.enabled = true\nsplit.val_file = 'Train.jsonl'",
            '3: filter.split.val_file: "Train.jsonl" is the name of another file of this job; give it another name',
        ),
        (
            "stats_file = 'a.jsonl'\noutput = 'out/a.jsonl'",
            '2: filter.stats_file: "a.jsonl" is the name of another file of this job; give it another name',
        ),
        (
            "stats_file = 'dataset.manifest.json'",
            '2: filter.stats_file: "dataset.manifest.json" is the name of another file of this job; give it another name',
        ),
        (
            "sample.lines = 7",
            '2: filter.sample.lines: 7 is read only with by = "reward" or "achievement"; limit cuts lines off',
        ),
        (
            "split.enabled = true\nstats_file = 'train.jsonl'",
            '3: filter.stats_file: "train.jsonl" is the name of another file of this job; give it another name',
        ),
    ],
)
def test_a_wrong_filter_value_is_one_problem(lines: str, said: str, tmp_path: Path) -> None:
    assert wrong(f"[filter]\n{lines}\n", tmp_path) == [said]


def test_a_filter_without_keys_takes_everything() -> None:
    spec = specs.build({"filter": {}}, env={})
    assert isinstance(spec, specs.FilterSpec)
    assert (spec.filter.jobs, spec.filter.seeds, spec.filter.limit) == ((), None, None)


def test_one_name_stands_for_a_list_of_one() -> None:
    spec = specs.build({"filter": {"jobs": "teacher", "achievements": "wake_up"}}, env={})
    assert isinstance(spec, specs.FilterSpec)
    assert (spec.filter.jobs, spec.filter.achievements) == (("teacher",), ("wake_up",))


def test_image_only_mode_tells_no_history_unasked() -> None:
    spec = specs.build({"eval": {"seeds": 1, "policy_config": {"image_only_mode": True}}}, env={})
    assert isinstance(spec, specs.EvalSpec)
    assert spec.eval.policy_config.history == 0
