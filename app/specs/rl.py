"""An ``rl`` job: a model plays, is updated from its own play, and plays again; seeds that it never learns from say how well.

What the settled words come to. An iteration is ``rollout.batches_per_step`` x ``rollout.episodes_per_batch`` episodes in groups
of ``training.group_size``; there are ``training.num_epochs`` x ``training.iterations_per_epoch`` iterations, unless
``training.iterations`` says otherwise; update i makes version i + 2 of the adapter out of version i + 1. A job that goes on
from another one (``model.extend``) counts on: its first iteration is the number of updates that it goes on from.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from random import Random
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, model_validator

from app.specs import dagger as imitation
from app.specs.base import NAME, Clash, Compat, Spec
from app.specs.curriculum import CurriculumTable
from app.specs.dagger import DaggerTable
from app.specs.draft import shown
from app.specs.engine import VLLM_ONLY, VllmTable, too_small
from app.specs.eval import EvalTable
from app.specs.play import CRAFTER_IN_SCHEMA, PlayTable
from app.specs.policies import MODEL
from app.specs.policy_config import MODEL_KEYS, SERVED_KEYS, PolicyConfig
from app.specs.rl_compat import CRAFTER_KEYS, SEED_KEYS
from app.specs.rl_tables import (
    AlgorithmTable,
    CapsTable,
    CheckpointTable,
    DataTable,
    EvaluationTable,
    GatesTable,
    JudgeTable,
    ModelTable,
    ReferenceTable,
    RlLoraTable,
    RolloutTable,
    ServicesTable,
    TopologyTable,
    TrainingTable,
)
from app.specs.seeds import MAX_SEED
from app.specs.training import ALL_LINEAR, FOUR_BITS, ComputeTable, LoggersTable
from app.specs.vision import disagreement

TRAIN: Final = "train"
EVALUATION: Final = "evaluation"
BLANK: Final = "blank"
"""What an episode of the job is played for: to learn from, to try the model, and to try it with black pictures."""
STEPS_WANTED: Final = 4
"""Steps that an iteration's play is cut into: episodes of one share an engine's batch, and several workers may play."""
MOST_A_STEP: Final = 256


class _Play(EvalTable):
    """How a step of the job plays. What its one policy's label means was settled when the job was submitted."""

    def _served(self, key: str, label: str, ref: str | None) -> Iterator[Clash]:
        yield from ()


class RlSpec(Spec):
    """A model learns from its own play."""

    compats: ClassVar[tuple[Compat, ...]] = (SEED_KEYS, CRAFTER_KEYS)
    unread: ClassVar[frozenset[str]] = frozenset({"services.task_url", "services.judge_url"})

    kind: Literal["rl"] = "rl"
    """What kind of job this is."""
    model: ModelTable
    """What is trained."""
    rollout: Annotated[RolloutTable, Field(default_factory=lambda: RolloutTable.model_validate({}))]
    """How episodes are played to learn from, and how many."""
    algorithm: AlgorithmTable = AlgorithmTable()
    """How play becomes a gradient."""
    dagger: DaggerTable = DaggerTable()
    """Rounds of DAgger before the job learns from rewards."""
    training: TrainingTable = TrainingTable()
    """How often the model is updated, and with what steps."""
    lora: RlLoraTable = RlLoraTable()
    """The adapter that is trained."""
    data: DataTable = DataTable()
    """Which worlds are played to learn from, and which are kept apart."""
    curriculum: CurriculumTable = CurriculumTable()
    """Groups that begin in the middle of what somebody played before."""
    evaluation: EvaluationTable = EvaluationTable()
    """How the model is tried on seeds that it never learns from."""
    gates: GatesTable = GatesTable()
    """When something looks wrong, and when that ends the training."""
    caps: CapsTable = CapsTable()
    """What the training may take."""
    checkpoint: CheckpointTable = CheckpointTable()
    """What is kept to go on from."""
    vllm: VllmTable = VllmTable()
    """How the model is served, by either engine."""
    loggers: LoggersTable = LoggersTable()
    """Who else is told the figures of the training."""
    compute: ComputeTable = ComputeTable()
    """What hardware is asked for."""
    topology: TopologyTable | None = None
    """Which GPU does what."""
    reference: ReferenceTable = ReferenceTable()
    """The model that the distance from the base is measured with."""
    services: ServicesTable | None = None
    """Services elsewhere."""
    judge: JudgeTable | None = None
    """A judge beside the environment."""
    tags: Annotated[dict[str, str | int | float | bool], Field(default_factory=dict)]
    """Anything, for people; it changes nothing."""

    # -- how much ---------------------------------------------------------------------------------------------------------

    @property
    def iterations(self) -> int:
        """How many iterations there are."""
        return self.training.iterations or self.training.num_epochs * self.training.iterations_per_epoch

    @property
    def begun(self) -> int:
        """The number of its first iteration: the updates of the job that it goes on from."""
        return self.model.extended[1] or 0

    @property
    def end(self) -> int:
        """The number of updates that there are at its end, with those of the job that it goes on from."""
        return self.begun + self.iterations

    @property
    def groups(self) -> int:
        """Groups of an iteration: each is one seed."""
        return self.rollout.episodes // self.training.group_size

    @property
    def starts(self) -> int:
        """Groups of an iteration that begin in the middle of an episode."""
        return self.curriculum.groups(self.groups)

    @property
    def updates(self) -> int:
        """Steps of the optimizer in one pass over an iteration's samples."""
        training = self.training
        if training.updates_per_iteration is not None:
            return training.updates_per_iteration
        if training.gradient_accumulation_steps is None:
            return 1
        return -(-self.rollout.episodes // (training.batch_size * training.gradient_accumulation_steps))

    @property
    def optimizer_steps(self) -> int:
        """Steps of the optimizer over rewards in the whole job; fewer when groups have nothing to teach."""
        return (self.iterations - self.rounds) * self.training.passes * self.updates

    @property
    def rounds(self) -> int:
        """How many of the job's iterations are rounds of DAgger: the first ones, unless it goes on from a job that had them."""
        return imitation.rounds_of(self)

    @property
    def schedule_steps(self) -> int:
        """Steps that the learning rate's course is laid over: those of the job that it goes on from as well."""
        return (self.end - self.dagger.rounds) * self.training.passes * self.updates

    def evaluated(self, iteration: int) -> bool:
        """Whether the model is tried before update ``iteration``; for ``end``: at the end, which is always."""
        if iteration in (self.begun, self.end):
            return iteration == self.end or self.evaluation.at_start
        return iteration % self.evaluation.every_n_iters == 0

    def blanked(self, iteration: int) -> bool:
        """Whether the model is tried with black pictures too before update ``iteration``; for ``end``: at the end."""
        every = self.evaluation.blank_frames_every_n_iters
        return bool(every) and self.evaluated(iteration) and (iteration == self.end or iteration % every == 0)

    def estimate(self) -> dict[str, int]:
        """What the job comes to at the most: a turn is a sample, and episodes may end early."""
        turns = min(self.rollout.max_turns, self.rollout.max_llm_calls or self.rollout.max_turns)
        evaluations = sum(self.evaluated(i) + self.blanked(i) for i in range(self.begun, self.end + 1))
        played = self.iterations * self.rollout.episodes
        tried = evaluations * len(self.evaluation.played) * self.evaluation.episodes_per_seed
        each, imitated = self.rollout.episodes * turns, self.dagger.of(self.rounds)
        return {
            "iterations": self.iterations,
            "episodes": played,
            "evaluation_episodes": tried,
            "turns": (played + tried) * turns,
            "samples": (self.iterations - self.rounds) * each * self.training.passes + imitated.samples(each),
            "optimizer_steps": self.optimizer_steps + imitated.steps(each),
            **({"dagger_rounds": self.rounds} if self.rounds else {}),
        }

    def headline(self) -> str:
        told = self.estimate()
        counts = [
            _many(told["iterations"], "iteration"),
            _many(told["episodes"], "episode"),
            f"{_many(told['evaluation_episodes'], 'episode')} of evaluation",
            f"{_many(told['turns'], 'turn')} and {_many(told['samples'], 'sample')} at the most",
            _many(told["optimizer_steps"], "optimizer step"),
            *([f"{_many(self.rounds, 'round')} of DAgger with {self.dagger.expert} first"] if self.rounds else []),
        ]
        return f"{self.model.start} in {self.rollout.env}: {', '.join(counts)}"

    # -- who plays what ---------------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """The policy that plays: whatever version of the adapter is live. Named by what training begins from."""
        return f"{MODEL}:{self.model.start}"

    def seeds_of(self, iteration: int) -> list[int]:
        """The seeds of an iteration's groups, keyed by ``rollout.sampling_seed``; none comes twice while there are others."""
        seeds, groups = self.data.seeds, self.groups
        if seeds is None:
            first = self.data.seed_start + iteration * groups
            return list(range(first, first + groups))
        whole = len(seeds) // groups  # iterations that one pass over the seeds is enough for
        order = Random(f"{self.rollout.sampling_seed}/{iteration // whole}").sample(seeds, len(seeds))
        at = iteration % whole * groups
        return order[at : at + groups]

    @property
    def seeds(self) -> Collection[int]:
        """Every seed of training, with those of the job that it goes on from."""
        if self.data.seeds is not None:
            return self.data.seeds
        return range(self.data.seed_start, self.data.seed_start + self.end * self.groups)

    @property
    def episodes_a_step(self) -> int:
        """Episodes that one step plays side by side."""
        most = self.rollout.max_concurrent_rollouts
        if self.training.staleness:
            most //= 2  # two steps may play at once, for an update runs beside one
        wanted = self.rollout.episodes_per_step or -(-self.rollout.episodes // STEPS_WANTED)
        return max(1, min(MOST_A_STEP, most, wanted))

    @property
    def most_at_once(self) -> int:
        """Steps of the job that may run at once."""
        return max(1, self.rollout.max_concurrent_rollouts // self.episodes_a_step)

    def play(self, purpose: str = "") -> EvalTable:
        """How an episode is played to try the model, or else to learn from, in the words of an eval."""
        tried = purpose in (EVALUATION, BLANK)
        rollout = {name: getattr(self.rollout, name) for name in PlayTable.model_fields}
        if tried and self.evaluation.temperature is not None:
            rollout["temperature"] = self.evaluation.temperature
        data = self.data
        splits = {TRAIN: data.split, EVALUATION: data.evaluation_split, BLANK: data.blank_split}
        return _Play(
            **rollout,
            blank_frames=purpose == BLANK,
            policies=(self.label,),
            seeds=self.evaluation.played if tried else tuple(self.seeds_of(0)),
            episodes_per_seed=self.evaluation.episodes_per_seed if tried else self.training.group_size,
            episodes_in_flight=self.episodes_a_step,
            split=splits[purpose or TRAIN],
        )

    # -- what cannot be, and what looks like a mistake --------------------------------------------------------------------

    @model_validator(mode="before")
    @classmethod
    def _the_label_names_the_job(cls, value: Any) -> Any:
        model = value.get("model") if isinstance(value, dict) else None
        label = model.get("label") if isinstance(model, dict) else None
        if isinstance(label, str) and re.fullmatch(NAME, label) and value.get("name") is None:
            return {**value, "name": label}
        return value

    def checks(self) -> Iterator[Clash]:
        yield from self._counts()
        yield from self._seeds_apart()
        yield from imitation.clashes(self)
        yield from self.rollout.served_checks("rollout")
        shown_pictures = {
            "rollout.policy_config.use_vision": self.rollout.policy_config.use_vision,
            "model.supports_vision": self.model.supports_vision,
            "training.supports_vision": self.training.supports_vision,
        }
        yield from disagreement(shown_pictures)
        policy = self.rollout.policy_config
        yield from too_small(self.vllm, pictures=int(policy.use_vision), max_tokens=policy.max_tokens)
        if self.training.sharding == "fsdp" and self.model.trainer_mode == "qlora":
            yield Clash("training.sharding", f'"fsdp" {FOUR_BITS}')
        if self.evaluation.blank_frames_every_n_iters and not policy.use_vision:
            yield Clash(
                "evaluation.blank_frames_every_n_iters",
                f"{self.evaluation.blank_frames_every_n_iters} needs rollout.policy_config.use_vision = true: there is no "
                "picture that could be black",
            )
        if self.lora.r > self.vllm.max_lora_rank:
            yield Clash("vllm.max_lora_rank", f"{self.vllm.max_lora_rank} is below lora.r = {self.lora.r}; write that or more")
        tensor_parallel = self.topology.tensor_parallel if self.topology else None
        if tensor_parallel not in (None, self.vllm.tensor_parallel_size):
            yield Clash(
                "topology.tensor_parallel",
                f"{tensor_parallel} does not agree with vllm.tensor_parallel_size = {self.vllm.tensor_parallel_size}",
            )

    def _counts(self) -> Iterator[Clash]:
        rollout, training, episodes = self.rollout, self.training, self.rollout.episodes
        told = f"rollout.batches_per_step x rollout.episodes_per_batch = {episodes}"
        if episodes % training.group_size:
            yield Clash("training.group_size", f"{told} episodes cannot be dealt into groups of {training.group_size}")
        if self.data.episodes_per_iteration not in (None, episodes):
            yield Clash("data.episodes_per_iteration", f"{self.data.episodes_per_iteration} does not agree with {told}")
        if training.batch_size > episodes:
            yield Clash("training.batch_size", f"{training.batch_size} episodes are more than an iteration has: {told}")
        if (updates := training.updates_per_iteration) is not None:
            per_step = training.batch_size * (training.gradient_accumulation_steps or 0)
            if per_step and -(-episodes // per_step) != updates:
                yield Clash(
                    "training.updates_per_iteration",
                    f"{updates} does not agree with gradient_accumulation_steps = {training.gradient_accumulation_steps}, which "
                    f"makes {-(-episodes // per_step)} of {episodes} episodes; leave one of the two out",
                )
            if updates > episodes:
                yield Clash("training.updates_per_iteration", f"{updates} is more than the episodes of an iteration: {told}")
        if self.curriculum.share and not self.starts:
            few = f"{self.curriculum.share:g} of {_many(self.groups, 'group')} of an iteration is none"
            yield Clash("curriculum.share", f"{few}; write {1 / self.groups:.2g} or more, or 0")
        if (rollout.episodes_per_step or 1) > rollout.max_concurrent_rollouts:
            yield Clash(
                "rollout.episodes_per_step",
                f"{rollout.episodes_per_step} is more than max_concurrent_rollouts = {rollout.max_concurrent_rollouts}",
            )
        if training.staleness and rollout.max_concurrent_rollouts < 2:
            yield Clash("training.staleness", f"{training.staleness} needs rollout.max_concurrent_rollouts = 2 or more")

    def _seeds_apart(self) -> Iterator[Clash]:
        """Training, evaluation and what comes after share no seed."""
        training, groups = self.data.seeds, self.groups
        if training is not None and groups > len(training):
            yield Clash("data.seeds", f"{_many(len(training), 'seed')} cannot be {_many(groups, 'group')} of an iteration")
        last = self.data.seed_start + self.end * groups - 1
        if training is None and last > MAX_SEED:
            yield Clash("data.seed_start", f"{self.data.seed_start} leads to seed {last}, and the last one is {MAX_SEED}")
        final = self.data.final_seeds or ()
        for key, seeds, others, role in (
            ("evaluation.seeds", self.evaluation.seeds, self.seeds, "training"),
            ("data.final_seeds", final, self.seeds, "training"),
            ("data.final_seeds", final, self.evaluation.seeds, "evaluation"),
        ):
            known = others if isinstance(others, range) else frozenset(others)
            if both := [seed for seed in seeds if seed in known]:
                told = f"seed {both[0]}{f' and {len(both) - 1} more' if len(both) > 1 else ''}"
                yield Clash(key, f"{told} is of {role} too, so what is seen there would say nothing; keep them apart")

    def cautions(self) -> Iterator[str]:
        yield from self._about_learning()
        yield from imitation.cautions(self)
        yield from self._about_play()
        yield from self._in_place_of()

    def _about_learning(self) -> Iterator[str]:
        training, n = self.training, self.evaluation.every_n_iters
        if training.group_size == 1 and self.algorithm.estimator != "gae":
            yield (
                "training.group_size: 1 leaves nobody to compare with, so what counts is the plain return, and every reward "
                "teaches; write 2 or more"
            )
        if not any(i % n == 0 for i in range(self.begun + 1, self.end)):
            tried = "before the first update and " * self.evaluation.at_start
            yield (
                f"evaluation.every_n_iters: {n} is never reached in {_many(self.iterations, 'iteration')}, so the model is tried "
                f"{tried}at the end only"
            )
        if self.curriculum.job is not None and not self.starts:
            yield f"curriculum.job: nothing begins in the play of {shown(self.curriculum.job)} with share = 0"
        resolved = self.model_fields_set >= set(type(self).model_fields)  # defaults too: nobody knows what was written
        if ALL_LINEAR in self.lora.target_modules and "target_modules" in self.lora.model_fields_set and not resolved:
            yield 'lora.target_modules: "all-linear" is every linear layer of the language model; the vision tower stays as it is'
        if self.lora.dropout:
            yield (
                f"lora.dropout: {self.lora.dropout:g} is noise between the model that played and the one that is compared with "
                "it; rl is best with 0"
            )
        if training.staleness and training.staleness >= self.iterations:
            yield f"training.staleness: {training.staleness} is as many as there are iterations"

    def _about_play(self) -> Iterator[str]:
        rollout, policy = self.rollout, self.rollout.policy_config
        if policy.top_p < 1:
            yield (
                f"rollout.policy_config.top_p: {policy.top_p:g} cuts off what the model could have said, and the ratio of "
                "probabilities leaves that out; write 1.0 for an exact one"
            )
        yield from rollout.play_cautions("rollout")
        yield from rollout.served_cautions("rollout")
        for key in MODEL_KEYS:
            if key not in SERVED_KEYS and getattr(policy, key) != PolicyConfig.model_fields[key].default:
                yield f"rollout.policy_config.{key}: only models at an endpoint read it"
        if rollout.engine == "transformers":
            for key in VLLM_ONLY:
                if getattr(self.vllm, key) != VllmTable.model_fields[key].default:
                    yield f'vllm.{key}: the engine "transformers" does not read it'

    def _in_place_of(self) -> Iterator[str]:
        """What is done in place of what the file asks for."""
        rollout, training = self.rollout, self.training
        if self.services is not None:
            for key, value in self.services.model_dump(exclude_none=True).items():
                who = "synthq's own workers play, with the tokens of its own engines" if key == "task_url" else _NO_JUDGE
                yield f"services.{key}: {shown(value)} is not asked: {who}"
        if self.judge is not None:
            yield f"judge: {_NO_JUDGE}"
        if self.compute != ComputeTable() or self.topology is not None:
            what = "topology" if self.topology is not None else "compute"
            yield f"{what}: a request; engines and trainer use the GPUs, or the CPU, that their workers were started with"
        placed = (self.reference.placement, self.topology.reference_placement if self.topology else None)
        if {"shared", "dedicated"} & set(placed):
            yield "reference.placement: the reference is the base with the adapter switched off, on the trainer"
        if training.weight_sync is not None:
            yield (
                "training.weight_sync: each update's adapter is published as a version, loaded by every engine beside the one in "
                "use, its sha256 checked, and then taken into use"
            )
        if rollout.difficulty not in (None, "normal"):
            yield f"rollout.env_config.difficulty: Crafter has one difficulty, so {shown(rollout.difficulty)} is played as normal"
        if training.async_semaphore_max is not None:
            most = rollout.max_concurrent_rollouts
            yield f"training.async_semaphore_max: rollout.max_concurrent_rollouts = {most} alone says what is under way at once"
        if training.log_interval != 1:
            yield f"training.log_interval: {training.log_interval} changes nothing; the figures of every update are kept"
        if training.max_accumulated_minibatch != 1:
            kept = training.max_accumulated_minibatch
            yield f"training.max_accumulated_minibatch: {kept} changes nothing; no play is left over"

    @classmethod
    def finish_schema(cls, whole: dict[str, Any]) -> None:
        whole["$defs"]["RolloutTable"].update(CRAFTER_IN_SCHEMA)


_NO_JUDGE: Final = "no judge is asked: the environment's rewards are the only ones"


def _many(count: int, what: str) -> str:
    """``1 seed``, ``2,000 seeds``."""
    return f"{count:,} {what}{'s' * (count != 1)}"
