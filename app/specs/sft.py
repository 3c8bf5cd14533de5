"""An ``sft`` job: a model learns to say what the assistant says in lines of training data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, model_validator

from app.specs.base import Clash, Compat, Spec, Table, Word
from app.specs.draft import shown
from app.specs.engine import HUB_ID, ref_fault
from app.specs.sft_compat import SEED_KEYS, SEED_SETTLED
from app.specs.training import FOUR_BITS, ComputeTable, LoggersTable, LoraTable, OptimKeys, TrainerMode
from app.specs.vision import disagreement

Count = Annotated[int, Field(ge=1, le=100_000_000)]
JOB: Final = re.compile(r"@last|[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""An id of a job, a beginning of one, or a name."""
_FILES: Final = (".jsonl", ".json", ".gz")
_MEANS: Final = {"fft": "full", "lora": "lora", "peft": "lora", "qlora": "qlora"}
"""Other words for a mode, and what each means by itself."""
_FIT: Final = {"full": ("fft",), "lora": ("lora", "peft"), "qlora": ("qlora", "lora", "peft")}
"""The words that may stand beside a mode."""


def data_fault(ref: str) -> str | None:
    """Why a text names no data, or None. A path is none: the server would read its own disk, not the user's."""
    if JOB.fullmatch(ref) and not ref.endswith(_FILES):
        return None
    return f"{shown(ref)} is a path, and the server reads no paths; submit with --data {ref}, which sends the file to it"


def start_fault(ref: str) -> str | None:
    """Why a text names nothing to begin from, or None: a model as engines know it, or a job that trained one."""
    fault = None if JOB.fullmatch(ref) else ref_fault(ref)
    return fault and f"{fault}, or name a job that trained one"


class ValidationTable(Table):
    """Lines that are not learnt from, on which the model is tried now and then."""

    enabled: bool = True
    """Try it, on the data's own validation file where it has one, or on what the next two keys say; false: never."""
    data: Word | None = None
    """Other data for it: a job, or the id of an artifact; its validation file where it has one, else its lines to train on."""
    fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Where the data has no validation file, keep this share of its seeds apart; of its lines, where they tell no seed."""
    eval_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Steps between two tries; no value: at the end of each epoch. The end of the training always has one."""
    patience: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Stop after so many tries, one after the other, without a smaller loss; no value: never."""
    save_best: bool = True
    """What comes out is the model as it was when its loss on these lines was least; false: as it is at the end."""

    def checks(self) -> Iterator[Clash]:
        if self.data is not None and (fault := data_fault(self.data)):
            yield Clash("data", fault)
        if self.data is not None and self.fraction:
            yield Clash("fraction", f"{self.fraction:g} of the data is kept apart only without data = {shown(self.data)}")
        for key in ("data", "fraction", "eval_steps", "patience"):
            if not self.enabled and getattr(self, key):
                yield Clash(key, f"{shown(getattr(self, key))} is read only with enabled = true")


class ParallelismTable(Table):
    """What was asked for of several GPUs. They share the samples of a step, and with `sft.sharding` the model as well."""

    use_deepspeed: bool | None = None
    """DeepSpeed is not used; with `deepspeed_stage = 3` it stands for `fsdp = true`."""
    deepspeed_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """DeepSpeed is not used; 3, which deals weights out, stands for `fsdp = true`, and less changes nothing."""
    fsdp: bool | None = None
    """True: as `sft.sharding = "fsdp"`, but where the trainer has one GPU, or trains `qlora`, it goes on without it."""
    tensor_parallel_size: Annotated[int, Field(ge=1, le=64)] | None = None
    """No layer is cut; the key changes nothing."""
    pipeline_parallel_size: Annotated[int, Field(ge=1, le=64)] | None = None
    """Layers are not dealt out; the key changes nothing."""

    @property
    def asks_for_shards(self) -> str | None:
        """The key that asks for weights to be dealt out; None when none does."""
        if self.fsdp is not None:
            return "fsdp" if self.fsdp else None
        return "deepspeed_stage" if self.deepspeed_stage == 3 and self.use_deepspeed is not False else None

    def cautions(self) -> Iterator[str]:
        """What is done in place of what the table asks for."""
        asks, means = self.asks_for_shards, ("use_deepspeed", "deepspeed_stage")
        if asks is not None:
            dealt = "deals weights out (torch's FSDP) where the trainer has several GPUs"
            instead = "" if asks == "fsdp" else "DeepSpeed is not used; this "
            yield f"sft.parallelism.{asks}: {instead}{dealt}, and not for qlora"
        for key, value in self.model_dump(exclude_none=True).items():
            if key == asks or (asks in means and key in means) or value in (False, 0) or (key.endswith("_size") and value == 1):
                continue
            yield (
                f"sft.parallelism.{key}: {shown(value)} changes nothing; GPUs share a step's samples, each with the model, or "
                'with sft.sharding = "fsdp" a part of it'
            )


class SftTable(OptimKeys):
    """What is trained, on what, and for how long."""

    model: Word | None = None
    """The model to train: the whole path of a folder, a hub id or an artifact's id; of an adapter, its base, going on from the
    adapter. Not needed with `warmstart_from`."""
    data: Annotated[Word, Field(examples=["job_..."])]
    """What it learns from: a filter job, or the id of an artifact that is a dataset; `--data FILE` sends one and puts it here."""
    warmstart_from: Word | None = None
    """The adapter or model to begin from: a job that trained one, an artifact's id or the whole path of a folder."""
    trainer_mode: Literal["auto", "lora", "full", "qlora"] = "auto"
    """What is trained: `lora` an adapter, `full` the whole model, `qlora` an adapter on a base in 4 bits, which needs
    the package bitsandbytes (`pip install -e '.[qlora]'`; without it it is `lora`, and the job's events say so). `auto`: what the
    next three keys say, else `lora`."""
    use_qlora: bool | None = None
    """Must agree with `trainer_mode`; true beside `lora` means `qlora`."""
    variety: Literal["fft", "lora", "qlora"] | None = None
    """Another word for `trainer_mode`, which must agree: `fft` is `full`."""
    train_kind: Literal["fft", "peft"] | None = None
    """Another word for `trainer_mode`, which must agree: `fft` is `full`, `peft` an adapter."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How often each sample is learnt from."""
    max_steps: Count | None = None
    """Most steps of the optimizer; no value: as many as the epochs have."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 4
    """Samples that go through the model together, of about the same length; `tokens_per_pass` may cut them further."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=65_536)] = 4
    """Such batches in one step of the optimizer, on however many GPUs."""
    global_batch: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Samples in one step of the optimizer: `batch_size` times `gradient_accumulation_steps`, of which one may be left out."""
    sequence_length: Annotated[int, Field(ge=16, le=1_048_576)] = 2048
    """Most tokens of a sample, its pictures counted. Nothing is ever cut."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What a longer sample does: end the job before it begins, or be left out and counted."""
    max_lines: Count | None = None
    """Learn from the first so many lines alone."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Size of a step, after the warm-up. A whole model wants about a tenth of what an adapter wants."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How that size goes on after the warm-up: as it is, or down to 0 at the last step along a line or half a wave."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of all steps in which the size grows from 0 to `learning_rate`."""
    log_interval: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Steps between two rows of figures."""
    checkpoint_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Steps between two checkpoints. A job that is stopped, or whose worker is asked to end, leaves one as well."""
    supports_vision: bool | None = None
    """Whether lines show pictures: true wants some, false refuses any; no value: as they come."""
    max_images_per_message: Annotated[int, Field(ge=0, le=16)] | None = None
    """Most pictures in one message; a line with more is refused."""
    max_model_len: Annotated[int, Field(ge=16, le=1_048_576)] | None = None
    """What is said of the model; must be no less than `sequence_length`."""
    validation: ValidationTable = ValidationTable()
    """Lines that are not learnt from, on which the model is tried now and then."""
    parallelism: ParallelismTable = ParallelismTable()
    """What was asked for of several GPUs."""
    tags: Annotated[dict[str, Any], Field(default_factory=dict)]
    """Anything, for people; it changes nothing."""

    @model_validator(mode="before")
    @classmethod
    def _words_settle_the_mode(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("trainer_mode", "auto") not in ("auto", "lora"):
            return value
        given = value.get("trainer_mode", "auto")
        if value.get("use_qlora") is True:
            return {**value, "trainer_mode": "qlora"}
        words = [word for word in (value.get("variety"), value.get("train_kind")) if isinstance(word, str)]
        meant = next((_MEANS[word] for word in words if word in _MEANS), "lora")
        return {**value, "trainer_mode": meant if given == "auto" else given}

    @model_validator(mode="before")
    @classmethod
    def _two_batches_give_the_third(cls, value: Any) -> Any:
        whole = value.get("global_batch") if isinstance(value, dict) else None
        if type(whole) is not int or whole < 1:
            return value
        size, steps = value.get("batch_size"), value.get("gradient_accumulation_steps")
        if size is None and steps is None:
            size = next(n for n in range(min(whole, cls.model_fields["batch_size"].default), 0, -1) if whole % n == 0)
        if steps is None and type(size) is int and size > 0 and whole % size == 0:
            return {**value, "batch_size": size, "gradient_accumulation_steps": whole // size}
        if size is None and type(steps) is int and steps > 0 and whole % steps == 0:
            return {**value, "batch_size": whole // steps}
        return value

    def checks(self) -> Iterator[Clash]:
        yield from self._refs()
        yield from self._mode_words()
        yield from self._sharding()
        yield from disagreement({"supports_vision": self.supports_vision, "max_images_per_message": self.max_images_per_message})
        if self.global_batch not in (None, self.samples_per_step):
            yield Clash(
                "global_batch",
                f"{self.global_batch} is not batch_size x gradient_accumulation_steps = {self.batch_size} x "
                f"{self.gradient_accumulation_steps} = {self.samples_per_step}; make them agree, or leave one out",
            )
        if self.max_model_len is not None and self.max_model_len < self.sequence_length:
            yield Clash(
                "sequence_length",
                f"{self.sequence_length} is more than max_model_len = {self.max_model_len}, which the model can hold",
            )

    def _refs(self) -> Iterator[Clash]:
        if self.model is None and self.warmstart_from is None:
            yield Clash("model", "is needed and not given, such as Qwen/Qwen3-VL-4B-Instruct; or give warmstart_from")
        if self.model is not None and (fault := ref_fault(self.model)):
            yield Clash("model", fault)
        if self.warmstart_from is not None and (fault := start_fault(self.warmstart_from)):
            yield Clash("warmstart_from", fault)
        if fault := data_fault(self.data):
            yield Clash("data", fault)

    def _sharding(self) -> Iterator[Clash]:
        if self.sharding == "fsdp" and self.mode == "qlora":
            yield Clash("sharding", f'"fsdp" {FOUR_BITS}')
        asked = self.parallelism.fsdp
        if self.sharding is not None and asked not in (None, self.sharding == "fsdp"):
            yield Clash(
                "parallelism.fsdp",
                f'{shown(asked)} does not agree with sharding = "{self.sharding}"; make them agree, or leave one out',
            )

    def _mode_words(self) -> Iterator[Clash]:
        mode = self.mode
        for key in ("variety", "train_kind"):
            word = getattr(self, key)
            if word is not None and word not in _FIT[mode]:
                yield Clash(key, f'{shown(word)} does not agree with trainer_mode = "{mode}"; make them agree, or leave one out')
        if self.use_qlora not in (None, mode == "qlora"):
            yield Clash(
                "use_qlora",
                f'{shown(self.use_qlora)} does not agree with trainer_mode = "{mode}"; make them agree, or leave one out',
            )

    @property
    def mode(self) -> TrainerMode:
        """What is trained; ``auto`` was settled when the table was read."""
        return "lora" if self.trainer_mode == "auto" else self.trainer_mode

    @property
    def samples_per_step(self) -> int:
        """Samples in one step of the optimizer."""
        return self.batch_size * self.gradient_accumulation_steps

    def steps(self, samples: int) -> int:
        """Steps of the optimizer with so many samples; an epoch's last may have fewer."""
        whole = self.epochs * -(-samples // self.samples_per_step)
        return whole if self.max_steps is None else min(whole, self.max_steps)


class SftSpec(Spec):
    """A model learns to say what the assistant says in lines of training data."""

    compats: ClassVar[tuple[Compat, ...]] = (SEED_SETTLED, SEED_KEYS)

    kind: Literal["sft"] = "sft"
    """What kind of job this is."""
    sft: SftTable
    """What is trained, on what, and for how long."""
    lora: LoraTable = LoraTable()
    """The adapter that is trained, with `trainer_mode` `lora` or `qlora`."""
    loggers: LoggersTable = LoggersTable()
    """Who else is told the figures of the training."""
    compute: ComputeTable = ComputeTable()
    """What hardware is asked for."""

    @classmethod
    def finish_schema(cls, whole: dict[str, Any]) -> None:
        """A file in the words of the followed project has no table [sft]; what it must have stands in its own tables."""
        del whole["required"]
        whole["anyOf"] = [{"required": ["sft"]}, {"required": ["job"]}]

    def headline(self) -> str:
        table = self.sft
        what = "all weights" if table.mode == "full" else f"{'QLoRA' if table.mode == 'qlora' else 'LoRA'} of rank {self.lora.r}"
        of = table.model or table.warmstart_from
        epochs = f"{table.epochs} epoch{'s' * (table.epochs != 1)}"
        most = f", {table.max_steps} steps at the most" * (table.max_steps is not None)
        return f"{what} of {of}, {epochs} of {table.data}, {table.samples_per_step} samples a step{most}"

    def cautions(self) -> Iterator[str]:
        table = self.sft
        if table.mode == "full" and self.lora != LoraTable():
            yield 'lora: trainer_mode = "full" trains every weight and makes no adapter, so nothing reads this table'
        if table.mode == "full" and table.learning_rate >= 1e-4 and table.model and HUB_ID.fullmatch(table.model):
            yield f"sft.learning_rate: {table.learning_rate:g} is what an adapter wants; a whole model wants about 1e-05"
        yield from table.parallelism.cautions()
        if table.validation.patience is not None and not table.validation.save_best:
            yield "sft.validation.save_best: false keeps the last model, which patience has seen getting no better"
