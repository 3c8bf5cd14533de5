"""A ``filter`` job: which finished episodes, and which of their turns, become lines of training data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from app.errors import did_you_mean
from app.specs.base import NAME, Clash, Compat, Spec, Table, Word, Words
from app.specs.crafter import ACHIEVEMENTS
from app.specs.draft import shown
from app.specs.moments import Moment, moment
from app.specs.policies import VIEWS, policy_name
from app.specs.seeds import Seeds

Count = Annotated[int, Field(ge=0, le=1_000_000)]
Share = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
FileName = Annotated[str, StringConstraints(pattern=NAME)]
OUTPUTS = (".jsonl", ".json")
"""Endings of a file of lines: one line each, or one JSON list of them all."""


EPISODE_IDS = "episode_ids.txt"
"""Name of the file of the episodes that lines come from."""
STORE = "store"
"""The `db` that is synthq's own."""
_FILE_URL = re.compile(r"(?:sqlite(?:\+\w+)?|libsql|file):(?://)?", re.IGNORECASE)


def _import_name(db: str) -> str:
    """The name that an import goes by: a file's name for a path or a URL of a file; any other URL as it is."""
    if "://" in db and not _FILE_URL.match(db):
        if urlsplit(db).password is not None:
            raise ValueError(
                "holds a password, and a spec is stored with its job; write the name that `synthq traces import` told"
            )
        return db
    name = re.split(r"[/\\]", _FILE_URL.sub("", db, count=1).partition("?")[0])[-1]
    if not name:
        raise ValueError(f'must be a file\'s name or "{STORE}", not {shown(db)}')
    return name


Judge = Annotated[str, StringConstraints(pattern=NAME)]
JudgeScores = Annotated[dict[Judge, float], Field(default_factory=dict)]
"""A bound for each judge that is named."""


class TurnsTable(Table):
    """Which turns of a kept episode become lines."""

    drop_noops: bool = False
    """Leave out turns that did nothing but `noop`."""
    drop_empty: bool = False
    """Leave out turns whose reply holds nothing at all; matters with `outcomes_ok_only = false`."""
    before_unlock: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Keep a turn that unlocks an achievement and as many turns before it as make this number; no value: keep every turn."""
    top_share: Share | None = None
    """Of the turns that are left in all episodes, keep the best share by what they led to: the discounted sum of the episode's
    rewards from the turn on."""
    discount: Annotated[float, Field(ge=0, le=1)] = 0.99
    """By how much a reward counts less for each turn that it lies ahead, for `top_share` and for sampling by reward."""


class SampleTable(Table):
    """Lines are drawn, with replacement, in place of each being written once."""

    by: Literal["none", "reward", "achievement"] = "none"
    """`none`: every line once. `reward`: a line's chance grows with what its turn led to. `achievement`: every achievement that
    was unlocked is equally likely, and then every turn that led to it."""
    lines: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """How many lines are drawn; no value: as many as there are."""
    seed: Seed = 0
    """Keys the draws."""

    def checks(self) -> Iterator[Clash]:
        if self.lines is not None and self.by == "none":
            yield Clash("lines", f'{self.lines} is read only with by = "reward" or "achievement"; limit cuts lines off')


class SplitTable(Table):
    """A part of the episodes is kept apart, for validation. All episodes of a seed fall on the same side."""

    enabled: bool = False
    """Write two files in place of one."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the seeds whose lines go to the validation file."""
    seed: Seed = 42
    """Keys the choice."""
    stratify_by: Literal["achievements", "policy", "none"] = "achievements"
    """What both sides should have alike: the number of achievements, or who played."""
    train_file: FileName = "train.jsonl"
    """Name of the file to train on."""
    val_file: FileName = "val.jsonl"
    """Name of the file for validation."""

    def checks(self) -> Iterator[Clash]:
        for key in ("train_file", "val_file"):
            if not getattr(self, key).endswith(".jsonl"):
                yield Clash(key, f"must be a name that ends in .jsonl, not {shown(getattr(self, key))}")


class FilterTable(Table):
    """Which episodes are kept, and how they are written. An episode must pass every condition that is given."""

    jobs: Words = ()
    """Jobs whose episodes are read, by id, prefix of an id, or name; none: every finished episode."""
    db: Annotated[Word, AfterValidator(_import_name)] = STORE
    """Where episodes are read from: `store`, every episode that synthq has, or a file that `synthq traces import` brought in,
    by its name, its path or its `sqlite` URL. The file itself is not read again."""
    policies: Words = ()
    """Keep episodes of these policies, as their jobs name them; `scripted` stands for each of its views. None: of any."""
    models: Words = ()
    """Keep episodes of these models; none: of any, and of policies without one."""
    splits: Words = ()
    """Keep episodes of these splits; none: of any."""
    task_ids: Words = ()
    """Keep episodes with these task ids; none: with any, or without one."""
    seeds: Annotated[Seeds | None, Field(examples=["0-9"])] = None
    """Keep episodes of these seeds, written as in an eval spec; no value: of any."""
    min_created_at: Moment | None = None
    """Keep episodes that began at this time or later: `"2026-01-31"`, `"2026-01-31T12:00:00Z"`, or seconds since 1970."""
    max_created_at: Moment | None = None
    """Keep episodes that began at this time or earlier."""
    min_official_score: Annotated[float, Field(ge=0)] | None = None
    """Least score of an episode: how many different achievements it unlocked. 0.5 keeps those with at least one."""
    max_official_score: Annotated[float, Field(ge=0)] | None = None
    """Greatest score of an episode."""
    min_judge_scores: JudgeScores
    """Least score by each judge that is named; an episode that a judge has not scored does not pass."""
    max_judge_scores: JudgeScores
    """Greatest score by each judge that is named; here too an episode without that score does not pass."""
    min_return: float | None = None
    """Least sum of an episode's rewards, under the reward that its job named."""
    max_return: float | None = None
    """Greatest sum of an episode's rewards."""
    min_steps: Count | None = None
    """Fewest turns."""
    max_steps: Count | None = None
    """Most turns."""
    min_achievements: Count | None = None
    """Fewest different achievements; the score, as a whole number."""
    max_achievements: Count | None = None
    """Most different achievements."""
    achievements: Words = ()
    """Keep episodes that unlocked all of these."""
    filter_errors: bool = True
    """Leave out episodes that failed, or in which an engine gave no usable reply; false reads what there is of them."""
    filter_timeouts: bool = False
    """Leave out episodes that a limit of time cut short: `eval.max_time_s`, or the deadline of a reply that never came. A limit
    of turns is none."""
    detect_loops: bool = False
    """Leave out episodes that go round: 2 to 8 turns, not all alike, whose pictures and actions came three times in a row."""
    max_repeated_actions: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most turns that may take the same actions and see the same picture, in a row of turns with the same actions. A row that
    unlocks an achievement, by its end or in the turn after it, was patience and does not count."""
    min_unique_states: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Fewest different pictures in an episode. Here and above, two pictures in which no pixel differs by more than 16 of 255 are
    the same: so slow a change is daylight, not the world. Turns without a picture go by the text of their prompt."""
    top_share: Share | None = None
    """Of the episodes that are left, keep the best share: by achievements, then by return."""
    outcomes_ok_only: bool = True
    """Leave out turns whose reply could not be read."""
    turns: TurnsTable = TurnsTable()
    """Which turns of a kept episode become lines."""
    relabel: Literal["none", "scripted", "scripted:omniscient", "scripted:visible", "scripted:reactive"] = "none"
    """Who says what should have been done: `none` keeps the replies that were given; the expert looks at every state that was
    reached and its action becomes the reply (DAgger)."""
    rationales: bool = False
    """Put the expert's goal, in words, before its tool call."""
    max_sequence_length: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Leave out lines that are longer, in tokens by an estimate from above that docs/traces.md tells; nothing is cut."""
    deduplicate: bool = False
    """Of lines with the same prompt and the same reply keep the first."""
    conflicts: Literal["keep", "best"] = "keep"
    """Lines with the same prompt and other replies: keep all, or the one whose turn led to most."""
    sample: SampleTable = SampleTable()
    """Lines are drawn, with replacement, in place of each being written once."""
    shuffle: bool = False
    """Put the lines into a random order; without it they go by seed, member, age and turn."""
    shuffle_seed: Seed | None = None
    """Keys that order; no value: 0."""
    offset: Count = 0
    """Skip this many lines of that order."""
    limit: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Most lines to write."""
    split: SplitTable = SplitTable()
    """A part of the episodes is kept apart, for validation."""
    include_images: bool = True
    """Write frames into the lines as PNG; must agree with how the episodes were played. False writes the text alone, which play
    from pictures alone (`image_only_mode`) does not have. Refused for a job that is named, left out where none is."""
    include_metadata: bool = True
    """Write where a line comes from into it."""
    format: Literal["openai"] = "openai"
    """The form of a line: OpenAI's chat format."""
    save_stats: bool = True
    """Write what was read, removed and kept, by key, into a file."""
    stats_file: FileName = "filter_stats.json"
    """Name of that file."""
    save_episode_ids: bool = False
    """Write the ids of the episodes that lines come from into a file."""
    output: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = None
    """A path ending in .jsonl (or .json, for one list) where the command line writes the lines too."""
    output_dir: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = None
    """A folder where the command line writes every file of the job."""

    def checks(self) -> Iterator[Clash]:
        for what in ("official_score", "return", "achievements", "steps", "created_at"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low is not None and high is not None and low > high:
                told = moment if what == "created_at" else shown
                yield Clash(f"min_{what}", f"{told(low)} is more than max_{what} = {told(high)}, so nothing can pass")
        for judge, low in self.min_judge_scores.items():
            high = self.max_judge_scores.get(judge)
            if high is not None and low > high:
                yield Clash(
                    f"min_judge_scores.{judge}", f"{low:g} is more than its max_judge_scores = {high:g}, so nothing can pass"
                )
        if self.output is not None and not self.output.endswith(OUTPUTS):
            yield Clash("output", f"must be a path that ends in .jsonl or .json, not {shown(self.output)}")
        if self.output is not None and self.output_dir is not None:
            yield Clash(
                "output_dir", f"{shown(self.output_dir)} and output = {shown(self.output)} both say where to write; keep one"
            )
        if self.output is not None and self.split.enabled:
            yield Clash("output", "a split writes two files; name their folder in output_dir")
        if self.shuffle_seed is not None and not self.shuffle:
            yield Clash("shuffle_seed", f"{self.shuffle_seed} is read only with shuffle = true")
        if self.relabel != "none" and self.conflicts == "best":
            yield Clash("conflicts", '"best" goes by what a reply led to, and relabel replaces the replies')

    @property
    def view(self) -> str | None:
        """The expert's view that relabels; None when nobody does."""
        if self.relabel == "none":
            return None
        return self.relabel.partition(":")[2] or VIEWS[1]


SEED_KEYS = Compat(
    aliases={
        "filter.export_format": "filter.format",
        "filter.input_db": "filter.db",
        "filter.min_achievements_per_episode": "filter.min_achievements",
        "filter.min_steps_per_episode": "filter.min_steps",
        "filter.max_steps_per_episode": "filter.max_steps",
        "filter.min_verifier_scores": "filter.min_judge_scores",
        "filter.max_verifier_scores": "filter.max_judge_scores",
        "sft.max_sequence_length": "filter.max_sequence_length",
        "sft.deduplicate": "filter.deduplicate",
        "sft.shuffle": "filter.shuffle",
        "sft.shuffle_seed": "filter.shuffle_seed",
        "sft.require_valid_tool_calls": "filter.outcomes_ok_only",
        "sft.filter_empty_responses": "filter.turns.drop_empty",
        "split.enabled": "filter.split.enabled",
        "split.val_fraction": "filter.split.val_fraction",
        "split.random_seed": "filter.split.seed",
        "split.stratify_by": "filter.split.stratify_by",
        "split.train_file": "filter.split.train_file",
        "split.val_file": "filter.split.val_file",
        "output.save_stats": "filter.save_stats",
        "output.stats_file": "filter.stats_file",
        "output.save_filtered_episode_ids": "filter.save_episode_ids",
    },
    values={"filter.format": {"sft_jsonl": "openai"}},
)
"""Keys of the followed project, in both dialects of its filter files."""


class FilterSpec(Spec):
    """Good play, out of the store, as lines of training data."""

    compats: ClassVar[tuple[Compat, ...]] = (SEED_KEYS,)

    kind: Literal["filter"] = "filter"
    """What kind of job this is."""
    filter: FilterTable
    """Which episodes are kept, and how they are written."""

    @property
    def stem(self) -> str:
        """What the names of the job's own files begin with."""
        return PurePath(self.filter.output).stem if self.filter.output else self.name or "dataset"

    def checks(self) -> Iterator[Clash]:
        """No two files of one name, also where capitals do not count."""
        table, split = self.filter, self.filter.split
        lines = {"split.train_file": split.train_file, "split.val_file": split.val_file} if split.enabled else {}
        named = {
            "manifest": f"{self.stem}.manifest.json",
            "save_episode_ids": EPISODE_IDS if table.save_episode_ids else None,
            **(lines or {"output": f"{self.stem}.jsonl"}),
            "stats_file": table.stats_file if table.save_stats else None,
        }
        taken: dict[str, str] = {}
        for key, name in named.items():
            if name is not None and taken.setdefault(name.casefold(), key) != key:
                yield Clash(f"filter.{key}", f"{shown(name)} is the name of another file of this job; give it another name")

    def headline(self) -> str:
        jobs = len(self.filter.jobs)
        if jobs:
            return f"episodes of {jobs} job{'s' * (jobs != 1)}"
        return "every finished episode in the store" if self.filter.db == STORE else f"every finished episode of {self.filter.db}"

    def cautions(self) -> Iterator[str]:
        for name in self.filter.achievements:
            if name not in ACHIEVEMENTS:
                near = did_you_mean(name, ACHIEVEMENTS)
                yield f"filter.achievements: {name!r} is no achievement of Crafter, the built-in environment{near}"
        for label in self.filter.policies:
            name, variant = policy_name(label)
            if name == "scripted" and variant is not None and variant not in VIEWS:
                known = f"{did_you_mean(variant, VIEWS)} (it has {', '.join(VIEWS)})"
                yield f"filter.policies: scripted has no view {variant!r}{known}"
        least = max(self.filter.min_achievements or 0, self.filter.min_official_score or 0)
        if least > len(ACHIEVEMENTS):
            yield f"filter.min_achievements: Crafter has {len(ACHIEVEMENTS)} achievements, so no episode of it has {least:g}"
        if not self.filter.outcomes_ok_only:
            yield "filter.outcomes_ok_only: false teaches replies that could not be read"
