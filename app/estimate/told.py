"""The estimate of one spec, as figures and as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlmodel import Session

from app import training_refs
from app.errors import BadModel, InvalidInput, NotFound, SpecProblems
from app.estimate import memory
from app.estimate.memory import Device, Part, Served, Trained
from app.estimate.model import Known, known
from app.estimate.pace import Measured, Past, Rate
from app.estimate.words import at_the_most, duration, many, parameters, parts_told, size
from app.settings import get_settings
from app.specs import AnySpec
from app.specs.crafter import CrafterConfig
from app.specs.rl import RlSpec
from app.specs.sft import SftSpec
from app.training_refs import Start

SFT_READ_BYTES: Final = (1 << 30) + 256 * 1024**2
RL_READ_BYTES: Final = 256 * 1024**2
"""What a training keeps at the most of samples and pictures as they were read; held equal to the trainer's by a test."""
UNKNOWN_TIME: Final = "not known yet: no job with this model was measured here; after its first steps `synthq status` tells"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Lines that the user has and the server does not yet."""

    lines: int
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a spec comes to."""

    said: list[str] = field(default_factory=list)
    """Sentences for people: what, a colon, and how much."""
    cautions: list[str] = field(default_factory=list)
    seconds: float | None = None
    """How long it takes; None where that is not known."""
    figures: dict[str, Any] = field(default_factory=dict)
    """The same as numbers, by what they are."""


def estimate(session: Session, spec: AnySpec, given: Given | None = None) -> Estimate | None:
    """What an sft or rl spec comes to; None for other kinds. Never raises for a model or data that is not there."""
    if isinstance(spec, SftSpec):
        return _Sft(session, spec, given).told()
    return _Rl(session, spec).told() if isinstance(spec, RlSpec) else None


def _start(session: Session, spec: SftSpec | RlSpec) -> Start | None:
    try:
        if isinstance(spec, RlSpec):
            return training_refs.learner(spec)
        return training_refs.start(session, model=spec.sft.model, warm=spec.sft.warmstart_from)
    except (BadModel, NotFound, SpecProblems):  # a job that has not made it yet, or nothing: submit says which
        return None


class _About:
    """What both kinds tell of memory."""

    def __init__(self, session: Session, begin: Start | None, mode: str) -> None:
        self.begin = begin
        self.model: Known | None = known(begin.base) if begin is not None else None
        self.past = Past(session, begin.base, self.model) if begin is not None else None
        self.learnt = self.past.of_sft(mode) if self.past is not None else Measured()

    def devices(self, *measured: Measured) -> Sequence[Device]:
        """Where it will run, as far as earlier jobs tell."""
        return next(((each.device,) for each in measured if each.device is not None), ("gpu", "cpu"))

    def sizes(self) -> Iterator[str]:
        """How large the model is, and who says so."""
        if self.begin is not None and self.model is not None:
            yield f"model: {parameters(self.model.geometry.parameters)} ({self.model.source})"

    def memory(self, what: str, parts: dict[Device, list[Part]], peak: Rate | None, processes: int = 1) -> Iterator[str]:
        """Sentences of what takes memory; ``processes``: how many share a step, each of which holds that."""
        if self.model is None:
            name = self.begin.base if self.begin is not None else "the model"
            yield f"memory of the {what}: not known, for the sizes of {name} are not known here before it is loaded"
            return
        for device, held in parts.items():
            where = "on a CPU" if device == "cpu" else "on a GPU"
            if processes > 1:
                where = f"in each of {processes} processes" if device == "cpu" else f"on each of {processes} GPUs"
            yield f"memory of the {what} {where}: {at_the_most(held)} beside the program itself: {parts_told(held)}"
        if peak is not None:
            yield f"memory measured: {size(peak.per_s)} at the most, the program with it (trainer of {peak.job})"


class _Sft:
    def __init__(self, session: Session, spec: SftSpec, given: Given | None) -> None:
        self.spec, table = spec, spec.sft
        self.about = _About(session, _start(session, spec), table.mode)
        self.lines = given if given is not None else _counted(session, table.data)

    def told(self) -> Estimate:
        table, learnt, about = self.spec.sft, self.about.learnt, self.about
        samples = self._samples()
        steps = None if samples is None else table.steps(samples)
        seen = None if samples is None or steps is None else min(steps * table.samples_per_step, table.epochs * samples)
        seconds = seen / learnt.learns.per_s if seen is not None and learnt.learns is not None else None
        devices = about.devices(learnt)
        sizes = about.model.geometry if about.model is not None else None
        parts = {} if sizes is None else {each: memory.trainer(sizes, self._trained(), each) for each in devices}
        said = [
            self._amount(samples, steps),
            f"tokens: {self._tokens()}",
            *about.sizes(),
            *about.memory("trainer", parts, learnt.peak, get_settings().trainer_devices),
            f"time: {self._time(seconds)}",
        ]
        figures = {"samples": samples, "optimizer_steps": steps, "trainer": _plain(parts), "tokens_a_sample": learnt.tokens}
        return Estimate(said=said, seconds=seconds, figures=figures)

    def _samples(self) -> int | None:
        if self.lines is None:
            return None
        table = self.spec.sft
        count = min(self.lines.lines, table.max_lines or self.lines.lines)
        apart = table.validation.enabled and table.validation.data is None
        return max(1, count - round(count * table.validation.fraction * apart))

    def _amount(self, samples: int | None, steps: int | None) -> str:
        table = self.spec.sft
        if samples is None or steps is None:
            each = many(table.samples_per_step, "sample")
            return f"steps: of {each} each; how many is known when {table.data} has made its lines"
        often = f", {table.epochs} times" if table.epochs > 1 else ""
        return f"steps: about {steps:,}, of {many(table.samples_per_step, 'sample')} each: {many(samples, 'line')}{often}"

    def _tokens(self) -> str:
        learnt, most = self.about.learnt, f"{self.spec.sft.sequence_length:,} a sample at the most (sft.sequence_length)"
        pictures = f"; {many(self.lines.images, 'picture')} in the lines" if self.lines is not None and self.lines.images else ""
        if learnt.tokens is None:
            return f"{most}{pictures}"
        return f"{learnt.tokens:,.0f} a sample in {learnt.tokens_job}, pictures counted; {most}{pictures}"

    def _time(self, seconds: float | None) -> str:
        rate = self.about.learnt.learns
        if rate is None:
            return UNKNOWN_TIME
        from_job = f"{rate.per_s:,.3g} samples/s in {rate.job}"
        return f"about {duration(seconds)} ({from_job})" if seconds is not None else f"not known before the lines are; {from_job}"

    def _trained(self) -> Trained:
        table, lora = self.spec.sft, self.spec.lora
        pictures = self.lines.images if self.lines is not None else 0 if table.supports_vision is False else 10**9
        return Trained(
            mode=table.mode,
            rank=self.about.begin.facts.get("rank", lora.r) if self.about.begin is not None else lora.r,
            layers=lora.layers,
            depths=lora.layers_to_transform,
            tokens=min(table.tokens_per_pass, table.batch_size * table.sequence_length),
            sample_tokens=(self._samples() or 10**9) * table.sequence_length,
            pictures=pictures,
            picture_tokens=table.sequence_length,
            read_bytes=SFT_READ_BYTES,
            dropout=lora.dropout > 0,
            checkpointing=table.gradient_checkpointing,
            bf16=table.bf16,
            processes=get_settings().trainer_devices,
            dealt_out=table.sharding == "fsdp",
        )


def _counted(session: Session, ref: str) -> Given | None:
    """What is known of lines in the store; None where there are none yet."""
    try:
        row = training_refs.dataset(session, ref).train
    except (InvalidInput, NotFound):
        return None
    lines, images = row.data.get("lines"), row.data.get("images")
    if not isinstance(lines, int):
        return None
    return Given(lines=lines, images=images if isinstance(images, int) else lines)  # a filter's lines show one each, if any


class _Rl:
    def __init__(self, session: Session, spec: RlSpec) -> None:
        self.spec = spec
        self.about = _About(session, _start(session, spec), spec.model.trainer_mode)
        past = self.about.past
        self.updated = past.of_rl() if past is not None else Measured()
        self.played = self.updated.plays or (past.of_eval() if past is not None else None)
        self.counts = spec.estimate()

    def told(self) -> Estimate:
        about, spec = self.about, self.spec
        seconds, time = self._time()
        devices = about.devices(self.updated, about.learnt)
        if about.model is None:
            trainers: dict[Device, list[Part]] = {}
            engines: dict[Device, list[Part]] = {}
        else:
            geometry = about.model.geometry
            trainers = {each: memory.trainer(geometry, self._trained(), each) for each in devices}
            engines = {each: memory.engine(geometry, self._served(), each) for each in devices}
        said = [
            f"tokens: {self._tokens()}",
            *about.sizes(),
            *about.memory("trainer", trainers, self.updated.peak or about.learnt.peak, get_settings().trainer_devices),
            *self._engine(engines),
            f"time: {time}",
        ]
        figures = {**self.counts, "trainer": _plain(trainers), "engine": _plain(engines), "picture_tokens": self._picture()}
        return Estimate(said=said, cautions=list(self._past_cap(seconds, spec)), seconds=seconds, figures=figures)

    # -- tokens -----------------------------------------------------------------------------------------------------------

    def _picture(self) -> int | None:
        """Tokens of the picture of a turn; None where that is not known."""
        rollout, model = self.spec.rollout, self.about.model
        if not rollout.policy_config.use_vision:
            return 0
        if model is None or not isinstance(rollout.env_config, CrafterConfig):
            return None
        side = rollout.env_config.upscale_to or rollout.env_config.image_size
        return model.picture_tokens(side, side)

    def _tokens(self) -> str:
        picture, reply = self._picture(), self.spec.rollout.policy_config.max_tokens
        shown = "a picture of tokens not known" if picture is None else f"{picture:,} of the picture"
        base = f"a sample has {shown}, its text, and a reply of {reply:,} at the most"
        if (tokens := self._alike()) is None:
            return f"{base}; how long the text is, is known after the first update"
        return f"{base}; {tokens:,.0f} in all in {self.updated.tokens_job}, which plays the same way"

    def _alike(self) -> float | None:
        """Tokens of a sample, where they were measured of play that shows the same."""
        past, measured = self.about.past, self.updated
        if past is None or measured.tokens is None:
            return None
        theirs, mine = past.spec_of(measured.tokens_job)["rollout"], self.spec.rollout.model_dump(mode="json")
        same = all(theirs.get(key) == mine.get(key) for key in ("policy_config", "env", "env_config", "reply_format"))
        return measured.tokens if same else None

    # -- memory -----------------------------------------------------------------------------------------------------------

    def _trained(self) -> Trained:
        spec, training = self.spec, self.spec.training
        counts, vllm = self.counts, spec.vllm
        turns = counts["turns"] // (counts["episodes"] + counts["evaluation_episodes"])
        a_batch = training.batch_size * turns
        rounds = spec.rounds if spec.dagger.aggregate else 1  # a round's update shows the pictures of all rounds so far
        longest = min(vllm.max_model_len, self.about.model.geometry.max_length if self.about.model else vllm.max_model_len)
        samples = spec.rollout.episodes * turns * max(1, rounds)
        picture = self._picture()
        return Trained(
            mode=spec.model.trainer_mode,
            rank=self.about.begin.facts.get("rank", spec.lora.r) if self.about.begin is not None else spec.lora.r,
            layers=spec.lora.layers,
            depths=spec.lora.layers_to_transform,
            tokens=min(training.tokens_per_pass, a_batch * longest),
            sample_tokens=samples * longest,
            pictures=samples if spec.rollout.policy_config.use_vision else 0,
            picture_tokens=longest if picture is None else picture,
            read_bytes=RL_READ_BYTES,
            dropout=spec.lora.dropout > 0,
            checkpointing=training.gradient_checkpointing,
            bf16=training.bf16,
            processes=get_settings().trainer_devices,
            dealt_out=training.sharding == "fsdp",
        )

    def _served(self) -> Served:
        vllm, spec = self.spec.vllm, self.spec
        longest = self.about.model.geometry.max_length if self.about.model else vllm.max_model_len
        return Served(
            dtype=vllm.dtype,
            sequences=min(vllm.max_num_seqs, spec.rollout.max_concurrent_rollouts),
            tokens=min(vllm.max_model_len, longest),
            loras=vllm.max_loras,
            lora_rank=vllm.max_lora_rank,
            prefixes=vllm.enable_prefix_caching,
            sees=spec.rollout.policy_config.use_vision,
        )

    def _engine(self, engines: dict[Device, list[Part]]) -> Iterator[str]:
        vllm = self.spec.vllm
        if self.spec.rollout.engine != "vllm":
            yield from self.about.memory("engine (transformers)", engines, None)
        if self.spec.rollout.engine != "transformers":
            share = f"{vllm.gpu_memory_utilization:.0%} of its GPU, whatever the model needs (vllm.gpu_memory_utilization)"
            yield f"memory of the engine (vllm): {share}"

    # -- time -------------------------------------------------------------------------------------------------------------

    def _time(self) -> tuple[float | None, str]:
        counts, spec = self.counts, self.spec
        rate, whose = self.updated.updates, ""
        if rate is None and (rate := self.about.learnt.learns) is not None:
            whose = " of sft"
        parts, told = [], []
        if self.played is not None:
            tried = counts["turns"] * counts["evaluation_episodes"] / (counts["episodes"] + counts["evaluation_episodes"])
            parts = [(counts["turns"] - tried) / self.played.per_s, tried / self.played.per_s]
            told.append(f"play {duration(sum(parts))} ({self.played.per_s:,.3g} turns/s in {self.played.job})")
        if rate is not None:
            learning = counts["samples"] / rate.per_s
            told.append(f"updates {duration(learning)} ({rate.per_s:,.3g} samples/s{whose} in {rate.job})")
        if self.played is None or rate is None:
            missing = "play" if self.played is None else "updates"
            return None, f"{told[0]}; that of {missing} is not known yet, and `synthq status` tells it" if told else UNKNOWN_TIME
        play, tried_s = parts
        seconds = tried_s + (max(play, learning) if spec.training.staleness else play + learning)
        beside = ", one beside the other" if spec.training.staleness else ""
        return seconds, f"about {duration(seconds)} at the most: {' and '.join(told)}{beside}"

    def _past_cap(self, seconds: float | None, spec: RlSpec) -> Iterator[str]:
        cap = spec.caps.hours
        if seconds is None or cap is None or seconds <= cap * 3600:
            return
        paid = spec.caps.max_hours is None or cap < spec.caps.max_hours
        key, value = ("max_usd", spec.caps.max_usd) if paid else ("max_hours", spec.caps.max_hours)
        enough = f" ({duration(cap * 3600)} at usd_per_hour = {spec.caps.usd_per_hour:g})" if paid else ""
        done = int(spec.iterations * cap * 3600 / seconds)
        yield (
            f"caps.{key}: {value:g}{enough} is less than the {duration(seconds)} that it is estimated to take, so it would end "
            f"after about {many(done, 'iteration')} of {spec.iterations:,}"
        )


def _plain(parts: dict[Device, list[Part]]) -> dict[str, Any]:
    """Memory as JSON, by device: bytes by part, those that are bounds under ``at_most``."""
    return {
        device: {
            "bytes": {part.name: part.bytes for part in held if not part.most},
            "at_most": {part.name: part.bytes for part in held if part.most},
            "total": memory.total(held),
        }
        for device, held in parts.items()
    }
