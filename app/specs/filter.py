"""A ``filter`` job: which finished episodes, and which of their turns, become lines of training data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from app.errors import did_you_mean
from app.specs.base import Clash, Compat, Spec, Table, Words
from app.specs.crafter import ACHIEVEMENTS
from app.specs.draft import shown
from app.specs.seeds import Seeds

Count = Annotated[int, Field(ge=0, le=1_000_000)]


class FilterTable(Table):
    """Which episodes are kept, and how they are written. An episode must pass every condition that is given."""

    jobs: Words = ()
    """Eval jobs whose episodes are read, by id, prefix of an id, or name; none: every finished episode in the store."""
    db: Literal["store"] = "store"
    """Where episodes are read from: synthq's own store."""
    policies: Words = ()
    """Keep episodes of these policies; none: of any."""
    seeds: Annotated[Seeds | None, Field(examples=["0-9"])] = None
    """Keep episodes of these seeds, written as in an eval spec; no value: of any."""
    min_official_score: Annotated[float, Field(ge=0)] | None = None
    """Least score of an episode: how many different achievements it unlocked. 0.5 keeps those with at least one."""
    max_official_score: Annotated[float, Field(ge=0)] | None = None
    """Greatest score of an episode."""
    min_return: float | None = None
    """Least sum of an episode's rewards, under the reward that its job named."""
    max_return: float | None = None
    """Greatest sum of an episode's rewards."""
    min_achievements: Count | None = None
    """Fewest different achievements; the score, as a whole number."""
    max_achievements: Count | None = None
    """Most different achievements."""
    achievements: Words = ()
    """Keep episodes that unlocked all of these."""
    top_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of what is left, keep the best share: by achievements, then by return."""
    limit: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Most lines to write."""
    outcomes_ok_only: bool = True
    """Leave out turns whose reply could not be read."""
    include_images: bool = True
    """Write frames into the lines as PNG; false leaves text alone."""
    format: Literal["openai"] = "openai"
    """The form of a line: OpenAI's chat format."""
    output: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = None
    """A path ending in .jsonl where the command line writes the data too; no value: it stays an artifact of the job."""

    def checks(self) -> Iterator[Clash]:
        for what in ("official_score", "return", "achievements"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low is not None and high is not None and low > high:
                yield Clash(f"min_{what}", f"{shown(low)} is more than max_{what} = {shown(high)}, so nothing can pass")
        if self.output is not None and not self.output.endswith(".jsonl"):
            yield Clash("output", f"must be a path that ends in .jsonl, not {shown(self.output)}")


_NOT_BY_THIS = "this release does not choose episodes by it; remove the key"

SEED_KEYS = Compat(
    aliases={
        "filter.models": "filter.policies",
        "filter.export_format": "filter.format",
        "filter.min_achievements_per_episode": "filter.min_achievements",
    },
    values={"filter.format": {"sft_jsonl": "openai"}},
    refused={
        "filter.input_db": "filter reads synthq's own store; name jobs in filter.jobs instead",
        "filter.output_dir": "filter writes one file; name it in filter.output",
        "filter.splits": "episodes of this release all have the split train; remove the key",
        "filter.task_ids": "name jobs in filter.jobs or seeds in filter.seeds instead",
        **{
            f"filter.{key}": _NOT_BY_THIS
            for key in (
                "min_judge_scores",
                "max_judge_scores",
                "min_verifier_scores",
                "max_verifier_scores",
                "min_created_at",
                "max_created_at",
                "min_steps_per_episode",
                "max_steps_per_episode",
                "detect_loops",
                "max_repeated_actions",
                "min_unique_states",
                "filter_timeouts",
            )
        },
        "filter.offset": "this release skips no lines; remove the key",
        "filter.shuffle": "this release does not shuffle lines; remove the key",
        "filter.shuffle_seed": "this release does not shuffle lines; remove the key",
        "filter.filter_errors": "use filter.outcomes_ok_only instead",
        "filter.include_metadata": "every line has its metadata; remove the key",
        "sft": "this release sets no limits on lines; remove the table",
        "split": "this release makes no validation split; remove the table",
        "output": "this release writes no file of statistics; remove the table, and name the data's file in filter.output",
    },
)
"""Keys of the followed project, in both dialects of its filter files."""


class FilterSpec(Spec):
    """Good play, out of the store, as lines of training data."""

    compats: ClassVar[tuple[Compat, ...]] = (SEED_KEYS,)

    kind: Literal["filter"] = "filter"
    """What kind of job this is."""
    filter: FilterTable
    """Which episodes are kept, and how they are written."""

    def headline(self) -> str:
        jobs = len(self.filter.jobs)
        return f"episodes of {jobs} job{'s' * (jobs != 1)}" if jobs else "every finished episode in the store"

    def cautions(self) -> Iterator[str]:
        for name in self.filter.achievements:
            if name not in ACHIEVEMENTS:
                near = did_you_mean(name, ACHIEVEMENTS)
                yield f"filter.achievements: {name!r} is no achievement of Crafter, the built-in environment{near}"
        least = max(self.filter.min_achievements or 0, self.filter.min_official_score or 0)
        if least > len(ACHIEVEMENTS):
            yield f"filter.min_achievements: Crafter has {len(ACHIEVEMENTS)} achievements, so no episode of it has {least:g}"
        if not self.filter.outcomes_ok_only:
            yield "filter.outcomes_ok_only: false teaches replies that could not be read"
