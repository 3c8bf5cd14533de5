"""The table ``[dagger]`` of an rl job: its first iterations may be rounds of DAgger (Ross et al. 2011, arXiv 1011.0686).

In a round the model plays as in any iteration, the expert says of every state that was reached what it would have done, and the
update is imitation of that. Afterwards the job goes on with rl from the same adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from app.specs import crafter
from app.specs.base import Clash, Table
from app.specs.draft import shown
from app.specs.policies import VIEWS

if TYPE_CHECKING:
    from app.specs.rl import RlSpec

LABELS: Final = "labels"
"""Kind of the artifacts that hold what the expert said of an iteration's turns, with ``iteration`` among their data."""


class DaggerTable(Table):
    """Rounds of DAgger before the job learns from rewards: the model plays, and learns what the expert would have done."""

    rounds: Annotated[int, Field(ge=0, le=10_000)] = 0
    """How many of the job's iterations, the first ones, are rounds; 0: none."""
    expert: Literal["scripted", "scripted:omniscient", "scripted:visible", "scripted:reactive"] = "scripted:reactive"
    """Who says what should have been done, as in `filter.relabel`: `reactive` decides on each frame alone, which is all that a
    model without history sees; `visible`, or no view, remembers what it saw; `omniscient` knows the whole map."""
    actions: Annotated[int, Field(ge=1, le=8)] = 1
    """Most actions that the expert says at a turn, and the model learns to say; up to `rollout.policy_config.max_actions`."""
    epochs: Annotated[int, Field(ge=1, le=64)] = 2
    """How often a round goes over its turns."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Turns in one step of the optimizer."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Size of a step in these rounds, all of them alike; the other keys of the optimizer are those of `training`, which begins
    with an optimizer of its own after the last round."""
    aggregate: bool = True
    """Learn from the turns of all rounds so far, as DAgger does; false: from those of the round alone."""

    @property
    def view(self) -> str:
        """What the expert may know."""
        return self.expert.partition(":")[2] or VIEWS[1]

    def of(self, rounds: int) -> DaggerTable:
        """The same with so many rounds."""
        return self.model_copy(update={"rounds": rounds})

    def samples(self, played: int) -> int:
        """Samples that all rounds learn from where each has ``played`` turns, counted as often as they are gone over."""
        return self.epochs * sum(self._turns(played))

    def steps(self, played: int) -> int:
        """Steps of the optimizer in all rounds."""
        return self.epochs * sum(-(-turns // self.batch_size) for turns in self._turns(played))

    def _turns(self, played: int) -> list[int]:
        """Turns that each round goes over."""
        return [played * (number if self.aggregate else 1) for number in range(1, self.rounds + 1)]


def rounds_of(spec: RlSpec) -> int:
    """How many of a job's own iterations are rounds. They are counted with those of the job that it goes on from."""
    return max(0, spec.dagger.rounds - spec.begun)


def clashes(spec: RlSpec) -> Iterator[Clash]:
    """Why a job's rounds cannot be, where it asks for any."""
    table, rollout = spec.dagger, spec.rollout
    if not table.rounds:
        return
    job, updates = spec.model.extended
    if not job and table.rounds > spec.iterations:
        told = "training.iterations" if spec.training.iterations else "training.num_epochs x training.iterations_per_epoch"
        yield Clash("dagger.rounds", f"{table.rounds} is more than the iterations of the job: {told} = {spec.iterations}")
    if updates is not None and updates < table.rounds:
        yield Clash(
            "dagger.rounds",
            f"{table.rounds} rounds cannot go on from {job}@{updates}: what the expert said in the first of them is "
            f"that job's; go on from {table.rounds} updates or more, or begin from its adapter with warmstart_from",
        )
    if rollout.env != crafter.NAMES[0]:
        yield Clash(
            "dagger.rounds",
            f"a round needs an expert, and there is one for {crafter.NAMES[0]}, none for {shown(rollout.env)}",
        )
    if table.actions > rollout.policy_config.max_actions:
        most = rollout.policy_config.max_actions
        yield Clash(
            "dagger.actions", f"{table.actions} is more than a reply may hold: rollout.policy_config.max_actions = {most}"
        )
    if rollout.save_frames == "none":
        yield Clash(
            "dagger.rounds",
            'a round needs the frames that a replay is held to, and rollout.save_frames = "none" keeps none; write "all"',
        )


def cautions(spec: RlSpec) -> Iterator[str]:
    """What looks like a mistake in the table."""
    table = spec.dagger
    if not table.rounds:
        given = [name for name in DaggerTable.model_fields if getattr(table, name) != DaggerTable.model_fields[name].default]
        for name in given:
            yield f"dagger.{name}: {shown(getattr(table, name))} is read only with dagger.rounds = 1 or more"
        return
    if spec.model.extended[0]:
        yield f"dagger.rounds: {table.rounds} are counted from the beginning of the job that it goes on from, which is past them"
    elif table.rounds == spec.iterations:
        yield f"dagger.rounds: {table.rounds} are all iterations of the job, so nothing is learnt from rewards"
    most = spec.rollout.policy_config.max_actions
    if table.actions < most:
        yield (
            f"dagger.actions: the expert says {table.actions} at a turn, and a reply may hold {most}; what is learnt in these "
            "rounds is to say no more than the expert does"
        )
