"""What the trainer's child does of an rl job: it begins one, and turns an iteration's play into the next version.

Both read the store and write files only, and both may be asked twice: what is there already is told again, and not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app import runs as folders
from app.errors import StepFailed
from app.specs.rl import RlSpec
from workers.trainer.child.held import Held
from workers.trainer.learner import Learner, Tally
from workers.trainer.objective import losses
from workers.trainer.objective.advantages import Estimate, estimate
from workers.trainer.objective.losses import Logprobs, Objective
from workers.trainer.objective.values import GAE, Past, gae
from workers.trainer.precision import substituted
from workers.trainer.rl import past
from workers.trainer.rl.collect import Collected, Shown, collect
from workers.trainer.rl.doubts import BLIND, DIM, LOOKED_AT, Distance, blindness, distance, spread
from workers.trainer.rl.imitate import Lessons, gather, train
from workers.trainer.rl.options import Options, settings
from workers.trainer.rl.phases import Phases
from workers.trainer.rl.runs import Runs
from workers.trainer.rl.states import states
from workers.trainer.samples import Sample

Tell = Callable[[dict[str, Any]], None]

AGREE: Final = 0.005
"""Distance (KL, in nats by token) up to which the sampler's log-probabilities are taken for the trainer's own."""
CHECKPOINT_BYTES: Final = 16
"""By parameter that trains: it, two moments of it, and the adapter beside."""


def begin(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """Make what training begins from: a new adapter, the one in the folder ``adapter``, or where another job stood.

    ``args``: ``job``, ``spec`` (resolved), ``base``, ``adapter``. Gives the path and hash of the adapter's folder. Raises
    StepFailed when the other job's checkpoint is not here.
    """
    spec = RlSpec.model_validate(args["spec"])
    runs = Runs(args["job"], spec.begun)
    if (done := runs.result(runs.before)) is not None:
        return done
    phases = Phases(tell, held)
    extended = _extended(spec)
    with phases("load"):
        learner = held.learner(settings(spec, args["base"], args["adapter"], spec.begun), extended)
    about = {"parameters": learner.parameters, "substituted": substituted(spec.training.bf16)}
    told = _write(runs, runs.before, learner, held, phases, about, lambda state: past.copy(extended, state))
    held.keep(runs.state(runs.before))
    return told


def _extended(spec: RlSpec) -> Path | str:
    """The checkpoint of the job that a job goes on from; empty for none."""
    job, updates = spec.model.extended
    if not job or updates is None:
        return ""
    state = Runs(job).state(updates - 1)
    if not state.is_dir():
        raise StepFailed(
            f"the checkpoint of {job} after {updates} updates is not on this machine ({state}): checkpoints stay where they were "
            f"made, and go with their job or for newer ones (checkpoint.keep); --warmstart-from {job} begins from its adapter, "
            "with a new optimizer"
        )
    return state


def run(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """Update ``iteration`` of the job: gives the adapter's path and hash, ``figures``, ``warnings``, and ``stop``, why it should.

    ``args`` as of ``begin``, and ``iteration`` and ``version``, the number of the version that is updated.
    """
    spec, iteration = RlSpec.model_validate(args["spec"]), args["iteration"]
    runs = Runs(args["job"], spec.begun)
    if (done := runs.result(iteration)) is not None:
        return done
    phases = Phases(tell, held)
    with phases("load"):
        learner = held.learner(settings(spec, args["base"], args["adapter"], iteration), runs.state(iteration - 1))
        if 0 < iteration == spec.dagger.rounds:
            learner.restart()  # what the optimizer remembers of imitation is far larger than what rewards will give it
        folders.check_room(CHECKPOINT_BYTES * learner.parameters)
    options = Options.of(spec)
    update = Update(learner, options, phases, iteration=iteration)
    update.past = past.read(runs.state(iteration - 1), options.advantages.discount)
    with phases("collect"):
        play, loaded = update.options.play, learner.loaded
        collected = collect(args["job"], iteration, play, version=args["version"], images=loaded.images, image_id=loaded.image_id)
        imitates = iteration < spec.dagger.rounds
        lessons = gather(args["job"], iteration, update.options.imitate, play, loaded) if imitates else None
    if lessons is None:
        update.learn(collected)
    else:
        update.imitate(collected, lessons)
    told = _write(runs, iteration, learner, held, phases, update.told(), update.keep_past)
    held.keep(runs.state(iteration))
    if held.rank == 0:
        runs.prune(update.options.keep)
    return told


def _write(
    runs: Runs,
    iteration: int,
    learner: Learner,
    held: Held,
    phases: Phases,
    told: dict[str, Any],
    beside: Callable[[Path], None] = lambda state: None,
) -> dict[str, Any]:
    """Save and export, and note with them what is told; ``beside`` may add to the checkpoint."""

    def fill(folder: Any) -> dict[str, Any]:
        with phases("save"):
            learner.save(folder / "state", {"iteration": iteration})
            if held.rank == 0:
                beside(folder / "state")
            sha256 = learner.export(folder / "adapter")
        figures = {**told.get("figures", {}), **phases.figures()}
        return {**told, "figures": figures, "sha256": sha256}

    return runs.write(iteration, fill, first=held.rank == 0)


class Update:
    """One update, from samples to the last optimizer step."""

    def __init__(self, learner: Learner, options: Options, phases: Phases, *, iteration: int) -> None:
        self.options = options
        self._learner, self._phases, self._iteration = learner, phases, iteration
        self._figures: dict[str, float] = {}
        self._warnings: list[str] = []
        self._stop: str | None = None
        self._tally = Tally()
        self._steps: list[dict[str, float]] = []
        self.past: list[Past] = []
        """The play that values are fitted to, oldest first, of updates before and then of this one."""
        learner.check = phases.pulse

    def told(self) -> dict[str, Any]:
        """What the update came to."""
        return {"figures": self._figures, "warnings": self._warnings, "stop": self._stop}

    def keep_past(self, state: Path) -> None:
        """Write, into the folder of a checkpoint, what the next update's values are fitted to beside its own play."""
        if self.past:
            past.write(state, self.past, self.options.advantages.discount)

    def learn(self, collected: Collected) -> None:
        """Look whether the samples can be trusted, and take the optimizer steps that they are good for."""
        self._figures |= collected.figures
        estimates = self._estimates(collected)
        self._spreads(estimates)
        batches = _by_episode(collected, estimates)
        fresh = [s for s, place in zip(collected.samples, collected.places, strict=True) if place.staleness == 0]
        looked_at, found = self._look(collected, fresh)
        if batches:
            agrees = found is not None and found.k3 <= AGREE and len(fresh) == len(collected.samples)
            self._train(batches, collected.shown, old=None if agrees else self._scored(batches, collected.shown))
        else:
            self._warnings.append(self._nothing(collected))
        self._figures |= self._trained()
        if self._steps:
            self._moved(looked_at)
        self._stops()

    def imitate(self, collected: Collected, lessons: Lessons) -> None:
        """A round of DAgger: look whether the samples can be trusted, and learn what the expert would have done.

        That the policy moves far from what played is what is wanted, so the gates on entropy, distance and replies do not ask.
        """
        self._figures |= {**collected.figures, **lessons.figures}
        self._warnings += lessons.warnings
        fresh = [s for s, place in zip(collected.samples, collected.places, strict=True) if place.staleness == 0]
        looked_at, _ = self._look(collected, fresh)
        if not lessons.samples:
            self._warnings.append(f"update {self._iteration} has nothing to imitate; the adapter stays as it is")
        options = self.options
        self._figures |= train(
            self._learner, lessons, options.imitate.table, self._phases, seed=options.seed, iteration=self._iteration
        )
        if lessons.samples:
            self._moved(looked_at)

    # -- before -----------------------------------------------------------------------------------------------------------

    def _look(self, collected: Collected, fresh: list[Sample]) -> tuple[list[Sample], Distance | None]:
        """Some of what the present version said, with its pictures, and how far the trainer is from the engine on it."""
        looked_at = collected.shown.of(spread(fresh, LOOKED_AT))
        with self._phases("check"):
            found = self._parity(looked_at)
            self._blank(looked_at)
        return looked_at, found

    def _estimates(self, collected: Collected) -> list[Estimate]:
        options = self.options
        if options.estimator != GAE:
            return [estimate(options.estimator, group, options.advantages) for group in collected.groups]
        if not collected.samples:
            return []
        with self._phases("value"):
            earlier = self.past[max(0, len(self.past) - options.value_updates + 1) :]
            found = gae(collected.groups, states(self._learner, collected), options.advantages, earlier=earlier)
        self.past = [*earlier, found.past]
        self._figures["value_explained"] = found.explained
        return found.estimates

    def _spreads(self, estimates: list[Estimate]) -> None:
        flat = sum(each.flat for each in estimates)
        self._figures |= {
            "groups": float(len(estimates)),
            "groups_flat": float(flat),
            "flat_share": flat / len(estimates) if estimates else 0.0,
            "spread": float(np.mean([each.spread for each in estimates])) if estimates else 0.0,
        }

    def _parity(self, samples: list[Sample]) -> Distance | None:
        """Hold the trainer's log-probabilities to the sampler's, where both have the same weights."""
        found = distance(samples, self._learner.logprobs(samples)) if samples else None
        if found is None:
            return None
        self._figures |= {
            "parity/kl": found.k3,
            "parity/kl_k1": found.k1,
            "parity/difference": found.mean,
            "parity/difference_max": found.largest,
        }
        gates = self.options.gates
        if found.k3 <= gates.parity_warn:
            return found
        told = (
            f"engine and trainer do not agree: KL {found.k3:.4g} nats by token over {found.tokens} tokens of {len(samples)} "
            f"samples, and log-probabilities differ by {found.mean:.4g} on average and {found.largest:.4g} at the most"
        )
        if self._iteration == 0 and found.k3 > gates.parity_stop:
            raise StepFailed(
                f"{told}; the most is gates.parity_stop = {gates.parity_stop:g}, for before the first update both are the same "
                "model: look at precision, image size and chat template of both"
            )
        self._warnings.append(f"{told}; from gates.parity_warn = {gates.parity_warn:g} it is told")
        return found

    def _blank(self, samples: list[Sample]) -> None:
        """From time to time, see whether it matters what is on the pictures."""
        every = self.options.gates.blank_every
        if not every or self._iteration % every:
            return
        found = blindness(self._learner, samples)
        if found is None:
            return
        self._figures["blank_difference"] = found
        told = f"black pictures change log-probabilities by {found:.3g} nats on average"
        if found < BLIND:
            raise StepFailed(f"{told}: the trainer does not see what it is shown, and would learn blind")
        if found < DIM:
            self._warnings.append(f"{told}: the model hardly looks at what it is shown")

    def _nothing(self, collected: Collected) -> str:
        out = {why: count for why, count in collected.left_out.items() if count}
        if not collected.samples:
            why = ", ".join(f"{count} {name}" for name, count in out.items()) or "no episode came to its end"
            return f"update {self._iteration} has nothing to learn from: no samples ({why}); the adapter stays as it is"
        count = len(collected.groups)
        return (
            f"update {self._iteration} has nothing to learn from: in {'its one group' if count == 1 else f'all {count} groups'} "
            "every turn did as well as was expected; the adapter stays as it is"
        )

    # -- training ---------------------------------------------------------------------------------------------------------

    def _scored(self, episodes: list[list[Sample]], shown: Shown, *, base: bool = False) -> Logprobs:
        """The trainer's log-probabilities before the first step, or those of the base."""
        found: dict[str, NDArray[np.float32]] = {}
        with self._phases("score"):
            for batch in self._batches(episodes):
                values = self._learner.logprobs(shown.of(batch), base=base)
                found.update(zip((sample.key for sample in batch), values, strict=True))
        return found

    def _batches(self, episodes: list[list[Sample]]) -> Iterator[list[Sample]]:
        """The samples of so many episodes at a time."""
        size = self.options.batch_episodes
        for start in range(0, len(episodes), size):
            yield [sample for episode in episodes[start : start + size] for sample in episode]

    def _train(self, episodes: list[list[Sample]], shown: Shown, *, old: Logprobs | None) -> None:
        """All passes over the samples, in optimizer steps of so many episodes."""
        objective = Objective(self.options.loss, self.options.losses, old=old)
        base = self._scored(episodes, shown, base=True) if self.options.losses.kl_weight else None
        size = self.options.step_episodes
        with self._phases("train", total=self.options.passes * sum(map(len, episodes))):
            for number in range(self.options.passes):
                order = np.random.default_rng([self.options.seed, self._iteration, number]).permutation(len(episodes))
                for start in range(0, len(order), size):
                    self._step([episodes[place] for place in order[start : start + size]], shown, objective, base)

    def _step(self, episodes: list[list[Sample]], shown: Shown, objective: Objective, base: Logprobs | None) -> None:
        """One optimizer step. What has no gradient is not computed, and counts all the same."""
        units = objective.units(sample for episode in episodes for sample in episode)
        tally = Tally()
        for batch in self._batches(episodes):
            moving = shown.of(sample for sample in batch if base is not None or np.any(sample.advantages))
            if moving:
                given = None if base is None else [base[sample.key] for sample in moving]
                tally = tally.plus(self._learner.accumulate(moving, objective, scale=1 / units, base_logprobs=given))
            self._phases.done(len(batch))
        if tally.passes:
            self._steps.append(self._learner.step())
            self._tally = self._tally.plus(tally)

    def _trained(self) -> dict[str, float]:
        steps, tally = len(self._steps), self._tally
        told = {"optimizer_steps": float(steps), "samples_trained": float(tally.samples)}
        if not steps:
            return told
        seconds = self._phases.seconds("train")
        return {
            **told,
            "loss": tally.loss / steps,
            "grad_norm": float(np.mean([step["grad_norm"] for step in self._steps])),
            "learning_rate": self._steps[-1]["learning_rate"],
            "samples_per_s": tally.samples / seconds if seconds else 0.0,
            "tokens_per_s": tally.tokens / seconds if seconds else 0.0,
            "padding_share": 1 - tally.tokens / tally.padded if tally.padded else 0.0,
            **losses.means(tally.figures),
        }

    # -- after ------------------------------------------------------------------------------------------------------------

    def _moved(self, looked_at: list[Sample]) -> None:
        """Tell how far the update went from what played."""
        with self._phases("check"):
            moved = distance(looked_at, self._learner.logprobs(looked_at))
        if moved is not None:
            self._figures["kl_update"] = moved.k3

    def _stops(self) -> None:
        """Whether training should stop with this update, and why."""
        gates, told = self.options.gates, self._figures
        bounds = (
            ("entropy", "gates.min_entropy", gates.min_entropy, -1, "the mean entropy of a token"),
            ("kl_update", "gates.max_kl", gates.max_kl, 1, "the distance (KL) of the new policy from the one that played"),
            ("invalid_share", "gates.max_invalid_share", gates.max_invalid_share, 1, "the share of replies that cannot be read"),
        )
        for name, key, bound, sign, what in bounds:
            if bound is not None and name in told and sign * (told[name] - bound) > 0:
                side = "above" if sign > 0 else "below"
                self._stop = f"{what} is {told[name]:.4g}, {side} {key} = {bound:g}"
                return


def _by_episode(collected: Collected, estimates: list[Estimate]) -> list[list[Sample]]:
    """Samples with their advantages, those of an episode together; groups that are flat are left out."""
    found: dict[tuple[int, int], list[Sample]] = {}
    for sample, place in zip(collected.samples, collected.places, strict=True):
        about = estimates[place.group]
        if not about.flat:
            worth = np.full(len(sample.targets), about.advantages[place.episode][place.turn], np.float32)
            found.setdefault((place.group, place.episode), []).append(replace(sample, advantages=worth))
    return list(found.values())
