# ruff: noqa: E501
"""What `synthq config check` says to specs that cannot be right: ``python -m benchmarks.bad_specs [> docs/bad-specs.md]``.

Writes one file after another, each with one thing wrong, gives it to the real command line, and prints a Markdown table of what
came back. Exits 1 when an answer is not the one that is foreseen here, word for word. The tests hold the same sentences.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmarks.bad_data import AT_ONCE, REPOSITORY, cell
from benchmarks.system import scratch

COMMAND = "python -m benchmarks.bad_specs"


class BadSpec(NamedTuple):
    """One file."""

    name: str
    """What is wrong with it, in words."""
    text: str
    """The TOML."""
    said: str
    """The one problem that is told, without the file: its line, its key, and the sentence."""


BAD_SPECS = (
    BadSpec(
        "a key of the wrong dialect in the wrong table",
        "[filter]\ndeduplicate = true\n\n[sft]\nmin_steps_per_episode = 5\n",
        "5: sft.min_steps_per_episode: no such key in [sft]; did you mean 'filter.min_steps_per_episode'?",
    ),
    BadSpec(
        "a key of another table of its dialect",
        "[filter]\n[sft]\nrandom_seed = 1\n",
        "3: sft.random_seed: no such key in [sft]; did you mean 'split.random_seed'?",
    ),
    BadSpec(
        "a misspelt key of another dialect",
        "[filter]\n[split]\nval_fracton = 0.1\n",
        "3: split.val_fracton: no such key in [split]; did you mean 'val_fraction'?",
    ),
    BadSpec(
        "a table that is text",
        'split = "train"\n[filter]\n\n',
        "1: split: no such key in the top table; did you mean 'filter.split'?",
    ),
    BadSpec(
        "an output at the top",
        'output = "train.jsonl"\n[filter]\n\n',
        "1: output: no such key in the top table; did you mean 'filter.output'?",
    ),
    BadSpec(
        "the same thing in both dialects",
        "[filter]\nmin_steps = 3\nmin_steps_per_episode = 5\n",
        "3: filter.min_steps_per_episode: 5 is another spelling of filter.min_steps, which is 3; keep one of the two",
    ),
    BadSpec(
        "the same thing in two tables",
        "[filter]\ndeduplicate = false\n[sft]\ndeduplicate = true\n",
        "4: sft.deduplicate: true is another spelling of filter.deduplicate, which is false; keep one of the two",
    ),
    BadSpec(
        "a file and a folder",
        '[filter]\noutput = "a.jsonl"\noutput_dir = "out"\n',
        '3: filter.output_dir: "out" and output = "a.jsonl" both say where to write; keep one',
    ),
    BadSpec(
        "a split into one file",
        '[filter]\noutput = "a.jsonl"\n[split]\nenabled = true\n',
        "2: filter.output: a split writes two files; name their folder in output_dir",
    ),
    BadSpec(
        "an output of another kind",
        '[filter]\noutput = "train.csv"\n',
        '2: filter.output: must be a path that ends in .jsonl or .json, not "train.csv"',
    ),
    BadSpec(
        "the same file twice",
        '[filter]\n[split]\nenabled = true\ntrain_file = "a.jsonl"\nval_file = "a.jsonl"\n',
        '5: split.val_file: "a.jsonl" is the name of another file of this job; give it another name',
    ),
    BadSpec(
        "a validation share of all",
        "[filter]\n[split]\nval_fraction = 1.0\n",
        "3: split.val_fraction: must be less than 1, not 1.0",
    ),
    BadSpec(
        "a split by what nobody knows",
        '[filter]\n[split]\nstratify_by = "reward"\n',
        '3: split.stratify_by: must be "achievements", "policy" or "none", not "reward"',
    ),
    BadSpec(
        "a path as the name of a file",
        '[filter]\n[output]\nstats_file = "../stats.json"\n',
        '3: output.stats_file: must be 1 to 80 letters, digits, dots, dashes and underscores, the first a letter or a digit, not "../stats.json"',
    ),
    BadSpec(
        "a form that is not written",
        '[filter]\nexport_format = "alpaca"\n',
        '2: filter.export_format: must be "openai", not "alpaca"',
    ),
    BadSpec(
        "a shuffle seed without a shuffle",
        "[filter]\nshuffle_seed = 7\n",
        "2: filter.shuffle_seed: 7 is read only with shuffle = true",
    ),
    BadSpec(
        "steps that exclude each other",
        "[filter]\nmin_steps_per_episode = 50\nmax_steps_per_episode = 5\n",
        "2: filter.min_steps_per_episode: 50 is more than max_steps = 5, so nothing can pass",
    ),
    BadSpec(
        "a judge's scores that exclude each other",
        "[filter]\n[filter.min_judge_scores]\nquality = 0.9\n[filter.max_judge_scores]\nquality = 0.1\n",
        "3: filter.min_judge_scores.quality: 0.9 is more than its max_judge_scores = 0.1, so nothing can pass",
    ),
    BadSpec(
        "a judge's score that is text",
        '[filter]\nmin_judge_scores = {quality = "high"}\n',
        '2: filter.min_judge_scores.quality: must be a number, not "high"',
    ),
    BadSpec(
        "a judge's score that is not finite",
        "[filter]\nmin_judge_scores = {quality = nan}\n",
        "2: filter.min_judge_scores.quality: must be a finite number, not nan",
    ),
    BadSpec(
        "a judge with a space in the name",
        '[filter]\nmin_judge_scores = {"my judge" = 1}\n',
        '2: filter.min_judge_scores."my judge": must be 1 to 80 letters, digits, dots, dashes and underscores, the first a letter or a digit, not "my judge"',
    ),
    BadSpec(
        "scores that are one number", "[filter]\nmin_judge_scores = 0.5\n", "2: filter.min_judge_scores: must be a table, not 0.5"
    ),
    BadSpec(
        "a time that is none",
        '[filter]\nmin_created_at = "last week"\n',
        "2: filter.min_created_at: must be a time such as 2026-01-31T12:00:00Z, or seconds since 1970, not 'last week'",
    ),
    BadSpec(
        "milliseconds",
        "[filter]\nmin_created_at = 1760000000000\n",
        "2: filter.min_created_at: must be a time such as 2026-01-31T12:00:00Z, or seconds since 1970 and before 2100, not 1760000000000",
    ),
    BadSpec(
        "a time that is true",
        "[filter]\nmax_created_at = true\n",
        "2: filter.max_created_at: must be a time such as 2026-01-31T12:00:00Z, or seconds since 1970, not true",
    ),
    BadSpec(
        "a time of day alone",
        "[filter]\nmin_created_at = 12:00:00\n",
        "2: filter.min_created_at: must be text, a number, true or false, a list or a table, not a time",
    ),
    BadSpec(
        "a date where none belongs",
        "[filter]\ntask_ids = [2026-01-31]\n",
        "2: filter.task_ids: must be text, a number, true or false, a list or a table, not a date",
    ),
    BadSpec(
        "times that exclude each other",
        "[filter]\nmin_created_at = 2026-02-01\nmax_created_at = 2026-01-01\n",
        "2: filter.min_created_at: 2026-02-01T00:00:00Z is more than max_created_at = 2026-01-01T00:00:00Z, so nothing can pass",
    ),
    BadSpec(
        "a database with its password",
        '[filter]\ndb = "postgresql://me:secret@host/synth"\n',
        "2: filter.db: holds a password, and a spec is stored with its job; write the name that `synthq traces import` told",
    ),
    BadSpec(
        "a folder as a database",
        '[filter]\ndb = "traces/v3/"\n',
        '2: filter.db: must be a file\'s name or "store", not "traces/v3/"',
    ),
    BadSpec(
        "numbers in quotes",
        '[filter]\nlimit = "100"\n',
        '2: filter.limit: must be a whole number, not "100"; write 100 without quotes',
    ),
    BadSpec("more than everything", "[filter]\ntop_share = 1.5\n", "2: filter.top_share: must be 1 or less, not 1.5"),
    BadSpec(
        "one repetition too few",
        "[filter]\nmax_repeated_actions = 0\n",
        "2: filter.max_repeated_actions: must be 1 or more, not 0",
    ),
    BadSpec("half a step", "[filter]\nmin_steps = 2.5\n", "2: filter.min_steps: must be a whole number, not 2.5"),
    BadSpec("loops as a number", "[filter]\ndetect_loops = 1\n", "2: filter.detect_loops: must be true or false, not 1"),
    BadSpec(
        "an unknown expert",
        '[filter]\nrelabel = "scripted:oracle"\n',
        '2: filter.relabel: must be "none", "scripted", "scripted:omniscient", "scripted:visible" or "scripted:reactive", not "scripted:oracle"',
    ),
    BadSpec(
        "the best of relabelled replies",
        '[filter]\nrelabel = "scripted"\nconflicts = "best"\n',
        '3: filter.conflicts: "best" goes by what a reply led to, and relabel replaces the replies',
    ),
    BadSpec("a job that is a number", "[filter]\njobs = [7]\n", '2: filter.jobs.0: must be text, not 7; write "7" with quotes'),
    BadSpec(
        "two jobs in one file",
        '[eval]\nseeds = 1\n[filter]\njobs = ["x"]\n',
        "kind: there are tables for eval and filter; make a file of each",
    ),
    BadSpec(
        "a policy nobody knows the view of",
        '[eval]\nseeds = 1\npolicies = ["scripted:oracle"]\n',
        "3: eval.policies.0: scripted has no view 'oracle' (it has omniscient, visible, reactive)",
    ),
    BadSpec(
        "a model without an endpoint",
        '[eval]\nseeds = 1\npolicies = ["openai:gpt-4o"]\n',
        '3: eval.policies.0: "openai:gpt-4o" needs policy_config.provider (openai, groq, openrouter) or policy_config.inference_url',
    ),
    BadSpec(
        "openai without a model",
        '[eval]\nseeds = 1\npolicies = ["openai"]\npolicy_config.provider = "openai"\n',
        "3: eval.policies.0: openai needs a model: write openai:MODEL, or set eval.model",
    ),
    BadSpec(
        "a model by its bare name",
        '[eval]\nseeds = 1\npolicies = ["Qwen/Qwen3-VL-4B-Instruct"]\n',
        '3: eval.policies.0: "Qwen/Qwen3-VL-4B-Instruct" is no policy; a model plays as openai:MODEL',
    ),
    BadSpec(
        "an address with a password",
        '[eval]\nseeds = 1\npolicies = ["openai:m"]\npolicy_config.inference_url = "http://me:secret@host/v1"\n',
        '4: eval.policy_config.inference_url: must be an address that begins with http:// or https:// and holds no user and no password, not "http://me:***@host/v1"',
    ),
    BadSpec(
        "two endpoints",
        '[eval]\nseeds = 1\npolicies = ["openai:m"]\n[eval.policy_config]\nprovider = "openai"\ninference_url = "http://host:8000/v1"\n',
        '6: eval.policy_config.inference_url: provider = "openai" has an address of its own; keep one of the two',
    ),
    BadSpec(
        "a provider that nobody knows",
        '[eval]\nseeds = 1\npolicies = ["openai:m"]\npolicy_config.provider = "azure"\n',
        '4: eval.policy_config.provider: must be "openai", "groq" or "openrouter", not "azure"',
    ),
    BadSpec(
        "a key in the spec",
        '[eval]\nseeds = 1\npolicy_config.api_key = "sk-123"\n',
        "3: eval.policy_config.api_key: a spec is stored with its job, so it holds no secrets; name the variable in api_key_env",
    ),
    BadSpec(
        "a cap without prices",
        "[eval]\nseeds = 1\nbudget.max_usd = 1.0\n",
        "3: eval.budget.max_usd: 1 can be held only with prices; give input_usd_per_million and output_usd_per_million",
    ),
    BadSpec(
        "vision flags that disagree",
        "[eval]\nseeds = 1\n[eval.policy_config]\nuse_vision = true\nsupports_vision = false\n",
        "5: eval.policy_config.supports_vision: false does not agree with use_vision = true: the model would be shown no picture; make all vision flags agree",
    ),
    BadSpec(
        "pictures alone without pictures",
        "[eval]\nseeds = 1\n[eval.policy_config]\nuse_vision = false\nimage_only_mode = true\n",
        "5: eval.policy_config.image_only_mode: true needs use_vision = true: without the picture nothing is left to show",
    ),
    BadSpec(
        "history in pictures alone",
        "[eval]\nseeds = 1\n[eval.policy_config]\nimage_only_mode = true\nhistory = 3\n",
        "5: eval.policy_config.history: 3 turns of text cannot be told in image_only_mode; write history = 0",
    ),
    BadSpec(
        "no picture in a message that has one",
        "[eval]\nseeds = 1\npolicy_config.max_images_per_message = 0\n",
        "3: eval.policy_config.max_images_per_message: 0 does not agree with use_vision = true: the model would be shown no picture; make all vision flags agree",
    ),
    BadSpec(
        "options of who does not play",
        '[eval]\nseeds = 1\npolicies = ["random"]\npolicy_options.scripted.open_loop_k = 2\n',
        "4: eval.policy_options.scripted: 'scripted' does not play here",
    ),
    BadSpec(
        "two caps on turns",
        "[eval]\nseeds = 1\nmax_turns = 20\n[eval.env_config.env_params]\nmax_steps_per_episode = 50\n",
        "5: eval.env_config.env_params.max_steps_per_episode: 50 is another spelling of eval.max_turns, which is 20; keep one of the two",
    ),
    BadSpec(
        "a difficulty",
        '[eval]\nseeds = 1\nenv_config.difficulty = "easy"\n',
        '3: eval.env_config.difficulty: "easy" cannot be had: Crafter has no difficulty; remove the key',
    ),
    BadSpec(
        "a judge",
        '[eval]\nseeds = 1\njudge = "my_module:score"\n',
        '3: eval.judge: eval scores by achievements and runs no judges; remove the key (it is "my_module:score")',
    ),
)


def ask(spec: BadSpec, folder: Path, number: int) -> str:
    """What the command line tells of one file, without the file's name."""
    file = folder / f"{number}.toml"
    file.write_text(spec.text)
    command = [sys.executable, "-m", "cli.main", "config", "check", str(file)]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    heading, _, told = ran.stderr.partition("\n")
    if ran.returncode != 2 or ran.stdout or heading != "Error: 1 problem in the spec:":
        return f"exit code {ran.returncode}: {ran.stdout}{ran.stderr}"
    return told.strip().removeprefix(f"{file}:").removeprefix(" ")


def page(answers: list[str]) -> str:
    """The whole page."""
    rows = [
        f"| {spec.name} | `{cell(spec.text.strip().replace(chr(10), '; '))}` | {cell(said)} |"
        for spec, said in zip(BAD_SPECS, answers, strict=True)
    ]
    parts = [
        "# Bad specs, and what `synthq config check` says to them",
        "",
        f"    {COMMAND} > docs/bad-specs.md",
        "",
        f"That command writes each of these {len(answers)} files and gives it to the real command line. It fails when the exit code is",
        "not 2, when anything is on stdout, or when the one problem is told in other words. The number is that of the file's line;",
        "`;` stands between lines here.",
        "",
        "| given | the file | line, key and sentence |",
        "| --- | --- | --- |",
        *rows,
    ]
    return "\n".join(parts) + "\n"


def main() -> int:
    """Print the page; tell what did not hold."""
    with scratch() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda each: ask(each[1], folder, each[0]), enumerate(BAD_SPECS)))
    print(page(answers), end="")
    broken = [(spec, said) for spec, said in zip(BAD_SPECS, answers, strict=True) if said != spec.said]
    for spec, said in broken:
        print(f"{spec.name}: {said!r}, not {spec.said!r}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
