"""The tables of an ``rl`` job that no other kind has: what it learns from whom, with which seeds, and what stops it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, model_validator

from app.specs.base import NAME, Clash, Table, Word, Words
from app.specs.draft import shown
from app.specs.engine import ref_fault
from app.specs.play import PlayTable, Turns
from app.specs.seeds import MAX_SEED, Seeds
from app.specs.sft import JOB, start_fault
from app.specs.training import LoraTable, OptimKeys

Estimator = Literal["grpo_turn", "gae", "grpo", "dr_grpo", "rloo", "gspo", "gigpo"]
LOSS_OF: Final = {"gspo": "sequence"}
"""The loss that goes with an estimator, where it is not the one by tokens."""
EXTENDED: Final = re.compile(rf"(?P<job>{JOB.pattern})(?:@(?P<updates>[1-9][0-9]{{0,5}}))?")
"""An rl job, and after how many of its updates."""
Count = Annotated[int, Field(ge=1, le=100_000)]
Split = Annotated[str, StringConstraints(pattern=NAME)]


class AlgorithmTable(Table):
    """How play becomes a gradient."""

    estimator: Estimator = "grpo_turn"
    """How good a turn was. `grpo_turn`: its discounted return less the mean of the rest of its group at that turn; `gae`: less a
    value of its state and of what its episode has achieved, fitted to the other groups, so it wants many of them; `grpo`: the
    episode's return less its group's mean, divided by its deviation; `dr_grpo`: the same without the division; `rloo`: less the
    mean of the others; `gspo`: as `grpo`, for the loss by replies; `gigpo`: as `dr_grpo`, with groups of equal states beside."""
    loss: Literal["token", "sequence"] = "token"
    """`token`: ratios of probabilities by token, clipped; `sequence`: the geometric mean of a reply's ratios, clipped. No value:
    `sequence` for `gspo`, else `token`."""
    discount: Annotated[float, Field(gt=0, le=1)] = 0.99
    """By how much a reward counts less for each turn that it lies ahead."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """For `gae`: how far what was played is trusted beside the value of the next state; 1: wholly."""
    value_updates: Annotated[int, Field(ge=1, le=64)] = 4
    """For `gae`: updates whose play the values are fitted to, the newest among them; 1: that one's alone."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """A ratio below 1 - this teaches nothing more downwards."""
    clip_high: Annotated[float, Field(gt=0, le=10)] = 0.28
    """A ratio above 1 + this teaches nothing more upwards."""
    tis_cap: Annotated[float, Field(ge=0, le=1000)] = 2.0
    """Most that a token is weighted by how much likelier the trainer finds it than the engine did; 0: it is not weighted."""
    mask_low: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """A reply that the trainer finds less likely than the engine by this factor, as the geometric mean of its tokens, is left
    out."""
    mask_high: Annotated[float, Field(gt=1, le=1000)] = 2.0
    """The same upwards."""
    kl_beta: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Weight of the distance from the base without its adapter; 0: it is not computed."""
    least_spread: Annotated[float, Field(ge=0, le=1)] = 1e-6
    """A group whose returns lie no further apart has nothing to teach: it is left out, and counted."""

    @model_validator(mode="before")
    @classmethod
    def _the_estimator_chooses_the_loss(cls, value: Any) -> Any:
        if isinstance(value, dict) and "loss" not in value and value.get("estimator") in LOSS_OF:
            return {**value, "loss": LOSS_OF[value["estimator"]]}
        return value


class ModelTable(Table):
    """What is trained."""

    base: Word | None = None
    """The whole model that an adapter is trained on: the whole path of its folder, a hub id or an artifact's id."""
    source: Word | None = None
    """In place of `base`: an adapter, which is trained on, or a whole model; by folder, hub id, artifact's id, or by the job that
    trained it."""
    warmstart_from: Word | None = None
    """Beside `base`: an adapter on it to begin from, or a whole model in its place; named as `source` is, and alone the same."""
    extend: Word | None = None
    """Go on exactly where another rl job stood, which began from the same: `JOB`, or `JOB@UPDATES` for an earlier checkpoint of
    it. Adapter, optimizer, place in the schedule and seeds go on, and iterations are counted on; `training.iterations` says how
    many more."""
    trainer_mode: Literal["lora", "qlora", "full"] = "lora"
    """`lora`: an adapter; `qlora`: an adapter on a base in 4 bits, which needs the package bitsandbytes
    (`pip install -e '.[qlora]'`). rl trains no whole models."""
    label: Annotated[str, StringConstraints(pattern=NAME)] | None = None
    """A name for what comes out, for people; the job's, where `name` gives no other."""
    supports_vision: bool | None = None
    """What is said of the model; must agree with `rollout.policy_config.use_vision`."""

    def checks(self) -> Iterator[Clash]:
        if not self.start:
            yield Clash("base", "is needed and not given, such as Qwen/Qwen3-VL-4B-Instruct; or give source or warmstart_from")
        if self.base is not None and self.source is not None:
            yield Clash("source", f"{shown(self.source)} and base = {shown(self.base)} both say what is trained; keep one")
        if self.source is not None and self.warmstart_from is not None:
            yield Clash("warmstart_from", f"source = {shown(self.source)} says already what it begins from; keep one")
        if self.base is not None and (fault := ref_fault(self.base)):
            yield Clash("base", fault)
        for key in ("source", "warmstart_from"):
            ref = getattr(self, key)
            if ref is not None and (fault := start_fault(ref)):
                yield Clash(key, fault)
        if self.extend is not None and not EXTENDED.fullmatch(self.extend):
            yield Clash("extend", f"{shown(self.extend)} is no job to go on from; write JOB, or JOB@UPDATES, such as job_1f2e@4")
        if self.trainer_mode == "full":
            yield Clash(
                "trainer_mode",
                '"full" cannot be had in rl: every update goes live in the engines, which load adapters while they serve and no '
                'whole models; write "lora", or train a new base with an sft job and begin from that',
            )

    @property
    def start(self) -> str:
        """The ref that training begins from."""
        return self.warmstart_from or self.source or self.base or ""

    @property
    def extended(self) -> tuple[str, int | None]:
        """The job that it goes on from, and after how many updates; empty for none, None for its last."""
        found = EXTENDED.fullmatch(self.extend or "")
        return (found["job"], int(found["updates"]) if found["updates"] else None) if found else ("", None)


class RlLoraTable(LoraTable):
    """The adapter that is trained."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a layer's inputs that it does not see in a training step: noise between what played and what is updated."""


class TopologyTable(Table):
    """Which GPU does what. A request: workers use the GPUs that they are started with, and nothing is moved."""

    type: Word | None = None
    """A name for the whole, such as `single_node_split`."""
    gpus_for_vllm: Annotated[int, Field(ge=0, le=1024)] | None = None
    """GPUs for engines: one inference worker is started for each."""
    gpus_for_training: Annotated[int, Field(ge=0, le=1024)] | None = None
    """GPUs for the trainer."""
    gpus_for_ref: Annotated[int, Field(ge=0, le=1024)] | None = None
    """GPUs for a reference model. None is needed: it is the base with the adapter switched off, on the trainer."""
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] | None = None
    """GPUs that share one model when it is served; `vllm.tensor_parallel_size` is what acts, and must agree."""
    reference_placement: Literal["none", "shared", "dedicated"] | None = None
    """Where a reference model runs; see `reference.placement`."""


class ReferenceTable(Table):
    """The model that `algorithm.kl_beta` measures the distance from: always the base, with the adapter switched off."""

    placement: Literal["none", "shared", "dedicated"] = "none"
    """Where it runs: always on the trainer, which holds it anyway."""
    port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """No reference server is started; the key changes nothing."""
    tp: Annotated[int, Field(ge=1, le=64)] | None = None
    """No reference server is started; the key changes nothing."""
    health_max_wait_s: Annotated[float, Field(ge=0)] | None = None
    """No reference server is started; the key changes nothing."""
    health_interval_ms: Annotated[float, Field(ge=0)] | None = None
    """No reference server is started; the key changes nothing."""


class ServicesTable(Table):
    """Services elsewhere that files of the followed project name. None is asked."""

    task_url: Annotated[str, StringConstraints(max_length=1000)] | None = None
    """A task app. Play for rl needs the tokens of synthq's own engines, so synthq's own workers play."""
    judge_url: Annotated[str, StringConstraints(max_length=1000)] | None = None
    """A judge. The environment's rewards are the only ones."""


class RolloutTable(PlayTable):
    """How episodes are played to learn from, and how many."""

    max_turns: Turns = 10
    """Turns after which play stops, whatever the environment's own length."""
    episodes_per_batch: Count = 64
    """Episodes of a batch; with `batches_per_step` what an iteration plays."""
    batches_per_step: Count = 1
    """Batches of an iteration, all played by the same version of the adapter."""
    max_concurrent_rollouts: Count = 64
    """Most episodes of the job that are under way at once."""
    episodes_per_step: Annotated[int, Field(ge=1, le=256)] | None = None
    """Episodes that one step plays side by side; no value: a fourth of an iteration, and no more than may be under way."""
    min_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Share of an iteration's episodes that must have been played to their end for its update; with fewer the job fails."""
    difficulty: Literal["easy", "normal", "hard", "peaceful"] | None = None
    """Crafter has one difficulty, which is the same whatever stands here."""

    def checks(self) -> Iterator[Clash]:
        yield from super().checks()
        if self.temperature == 0:
            yield Clash("temperature", "0 plays every episode of a group alike, so there is nothing to compare; write 1.0")
        if self.save_frames == "none" and self.policy_config.use_vision:
            yield Clash("save_frames", '"none" leaves the trainer without the pictures that were seen; write "all"')
        for key in ("provider", "inference_url", "api_key_env"):
            if getattr(self.policy_config, key) is not None:
                yield Clash(
                    f"policy_config.{key}", "a model at an endpoint cannot be trained; [model] says which, and synthq serves it"
                )

    @property
    def episodes(self) -> int:
        """Episodes of an iteration."""
        return self.batches_per_step * self.episodes_per_batch


class DataTable(Table):
    """Which worlds are played to learn from, and which are kept apart."""

    seed_start: Annotated[int, Field(ge=0, le=MAX_SEED)] = 10_000
    """The seed of the first group; each group after it takes the next one, so that no world comes twice."""
    seeds: Annotated[Seeds | None, Field(examples=["100-199"])] = None
    """In place of `seed_start`: the seeds to learn from. When each was played they come again, each time in another order."""
    final_seeds: Annotated[Seeds | None, Field(examples=["500000-500199"])] = None
    """Seeds that a later comparison is kept for: refused here as seeds of training and of evaluation."""
    split: Split = "train"
    """The split that the episodes of training belong to."""
    evaluation_split: Split = "evaluation"
    """The split that the episodes of evaluations belong to."""
    episodes_per_iteration: Count | None = None
    """Must agree with `rollout.batches_per_step` times `rollout.episodes_per_batch`."""

    def checks(self) -> Iterator[Clash]:
        if self.split == self.evaluation_split:
            yield Clash("evaluation_split", f"{shown(self.split)} is the split of training as well; give it another name")
        if self.split == self.blank_split:
            yield Clash("split", f"{shown(self.split)} is the split of evaluations with black pictures; give it another name")

    @property
    def blank_split(self) -> str:
        """The split of episodes in which the model is tried with black pictures."""
        return f"{self.evaluation_split}-blank"


class EvaluationTable(Table):
    """How the model is tried on seeds that it never learns from. It is tried once more at the end, always."""

    seeds: Seeds = tuple(range(16))
    """The seeds; none may be a seed of training."""
    instances: Count | None = None
    """Episodes of an evaluation: of the first so many seeds, or several of each when it is a multiple; no value: one of each."""
    every_n_iters: Count = 10
    """Iterations between two evaluations."""
    at_start: bool = True
    """Try the model before the first update too, so that the curve has a beginning."""
    blank_frames_every_n_iters: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Iterations between two evaluations that are played once more, and at the end, with black pictures in place of frames: how
    much worse that is tells how much the model looks at them; 0: never."""
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    """Sampling temperature; no value: that of training, and the same for all that are compared."""

    def checks(self) -> Iterator[Clash]:
        blank, every = self.blank_frames_every_n_iters, self.every_n_iters
        if blank % every:
            yield Clash(
                "blank_frames_every_n_iters",
                f"{blank} is no multiple of every_n_iters = {every}, and play with black pictures is compared with an evaluation "
                f"that sees; write {-(-blank // every) * every}",
            )
        count, seeds = self.instances, len(self.seeds)
        if count is not None and count > seeds and count % seeds:
            yield Clash(
                "instances", f"{count} episodes of {seeds} seeds are no whole number each; write {seeds * (count // seeds)}"
            )

    @property
    def played(self) -> tuple[int, ...]:
        """The seeds of an evaluation."""
        return self.seeds[: self.instances] if self.instances is not None else self.seeds

    @property
    def episodes_per_seed(self) -> int:
        """Episodes of each."""
        return max(1, (self.instances or 0) // len(self.seeds))


class WeightSyncTable(Table):
    """How weights come to the engines: every update's adapter is published as a version, and its bytes are checked."""

    enable: Literal[True] = True
    """Without new weights in the engines nothing would be learnt from."""
    targets: Words = ("policy",)
    """What gets them: the policy."""
    mode: Literal["direct"] = "direct"
    """Weights are not pushed into the engine: a version is loaded beside the one in use, and then taken into use."""
    direct: Literal[True] = True
    """As `mode`."""
    verify_every_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Every version's bytes are checked, whatever stands here."""
    weight_sync_interval: Literal[1] = 1
    """Every update is published."""

    def checks(self) -> Iterator[Clash]:
        if self.targets != ("policy",):
            yield Clash("targets", f'{shown(self.targets)} cannot be had: only the policy is served; write ["policy"]')


class TrainingTable(OptimKeys):
    """How often the model is updated, and with what steps."""

    num_epochs: Count = 1
    """With `iterations_per_epoch`: how many iterations there are."""
    iterations_per_epoch: Count = 50
    """An iteration plays, then updates."""
    iterations: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """How many iterations, in place of the product of the two; `--iterations` sets it."""
    group_size: Annotated[int, Field(ge=1, le=1024)] = 8
    """Episodes of the same seed: each is compared with the others of its group alone."""
    batch_size: Count = 8
    """Episodes that are computed together; it changes memory and speed, not what is learnt."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Batches in one step of the optimizer; no value: all of an iteration, or as `updates_per_iteration` says."""
    updates_per_iteration: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Steps of the optimizer in a pass over an iteration; no value: as `gradient_accumulation_steps` says."""
    passes: Annotated[int, Field(ge=1, le=64)] = 1
    """How often each sample of an iteration is learnt from."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-5
    """Size of a step, after the warm-up."""
    staleness: Annotated[int, Field(ge=0, le=8)] = 0
    """Iterations that play may be ahead: 0 plays, then updates; 1 plays the next iteration while this one's update runs. A sample
    that is older than this many updates when its turn comes is dropped, and counted."""
    supports_vision: bool | None = None
    """As `model.supports_vision`."""
    log_interval: Count = 1
    """The figures of every update are kept, whatever stands here."""
    max_accumulated_minibatch: Count = 1
    """Play that is left over is not kept for later, whatever stands here."""
    async_semaphore_max: Count | None = None
    """`rollout.max_concurrent_rollouts` alone says what is under way at once."""
    weight_sync: WeightSyncTable | None = None
    """How weights come to the engines."""


class GatesTable(Table):
    """When something looks wrong, and when that ends the training. What was trained until then is kept."""

    parity_warn: Annotated[float, Field(ge=0)] = 0.015
    """Distance (KL, in nats by token) between what the engine and the trainer find likely, from which a warning is given."""
    parity_stop: Annotated[float, Field(gt=0)] = 0.1
    """The same, from which the job ends: in the first update nothing has been learnt yet, so the two must be the same model."""
    blank_frames_every: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """Iterations between two checks that a blank picture changes what the model finds likely; 0: never."""
    min_entropy: Annotated[float, Field(ge=0)] | None = None
    """Least mean entropy of a token, in nats; below it training stops."""
    max_kl: Annotated[float, Field(gt=0)] | None = None
    """Most distance (KL, in nats by token) of an update's policy from the one that played; above it training stops."""
    max_invalid_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Largest share of an iteration's replies that could not be read; above it training stops."""

    def checks(self) -> Iterator[Clash]:
        if self.parity_warn > self.parity_stop:
            yield Clash(
                "parity_warn", f"{self.parity_warn:g} is above parity_stop = {self.parity_stop:g}, so it would never warn"
            )


class CapsTable(Table):
    """What the training may take. At a cap it is tried and reported as at its end."""

    max_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours after which no further iteration begins."""
    max_usd: Annotated[float, Field(gt=0)] | None = None
    """Cost after which no further iteration begins; needs `usd_per_hour`."""
    usd_per_hour: Annotated[float, Field(gt=0)] | None = None
    """What an hour of the machines costs."""

    def checks(self) -> Iterator[Clash]:
        if self.max_usd is not None and self.usd_per_hour is None:
            yield Clash("max_usd", f"{self.max_usd:g} can be held only with a price; give usd_per_hour")

    @property
    def hours(self) -> float | None:
        """Hours after which no further iteration begins; None for no cap."""
        paid = self.max_usd / self.usd_per_hour if self.max_usd is not None and self.usd_per_hour is not None else None
        return min((cap for cap in (self.max_hours, paid) if cap is not None), default=None)


class CheckpointTable(Table):
    """What is kept to go on from. Every iteration has a checkpoint."""

    keep: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    """Newest checkpoints that stay; adapters that were published are kept all."""


class JudgeOptions(Table):
    """Options of a judge; none is asked."""

    timeout_s: Annotated[float, Field(ge=0)] | None = None
    """No judge is asked; the key changes nothing."""


class JudgeTable(Table):
    """A judge beside the environment. There is none: the environment's rewards are the only ones."""

    type: Literal["env"] = "env"
    """Who rewards: the environment."""
    enabled: Literal[False] = False
    """No judge is asked."""
    timeout_s: Annotated[float, Field(ge=0)] | None = None
    """No judge is asked; the key changes nothing."""
    options: JudgeOptions = JudgeOptions()
    """Options of a judge; none is asked."""
