"""Verbs that make jobs: submit, and the spellings eval, filter and train of the project that synthq follows.

The spec is read and checked here, before any request, so that every problem shows with its file and line; the server checks
again what it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import click

from app.errors import BadFlag, SpecProblems
from cli import estimated, show
from cli.flags import Overrides

if TYPE_CHECKING:
    from app.specs import AnySpec
    from cli.sft import Lines

F = TypeVar("F", bound=Callable[..., Any])
Json = dict[str, Any]

KINDS = ("eval", "filter", "sft", "rl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What every `submit` takes beside the flags of its kind."""

    config_file: str | None
    config_option: str | None
    sets: tuple[str, ...]
    name: str | None
    priority: int | None
    labels: tuple[str, ...]
    after: tuple[str, ...]
    idempotency_key: str | None
    watch: bool
    as_json: bool
    id_only: bool
    dry_run: bool

    @property
    def config(self) -> str | None:
        """The spec's file, from either spelling. Raises BadFlag when the two name different files."""
        given = {path for path in (self.config_file, self.config_option) if path is not None}
        if "" in given:
            raise BadFlag("the name of the spec's file is empty; is a variable of the shell not set?")
        if len(given) > 1:
            raise BadFlag(f"the spec is named twice: {self.config_file} and --config {self.config_option}; keep one")
        return next(iter(given), None)


_OPTIONS = (
    click.argument("config_file", metavar="[CONFIG]", required=False),
    click.option("--config", "config_option", metavar="FILE", help="Same as CONFIG."),
    click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="A value of the spec; repeatable."),
    click.option("--name", help="A name for the job."),
    click.option("--priority", type=click.IntRange(-1000, 1000), metavar="N", help="Higher goes first."),
    click.option("--label", "labels", metavar="K=V", multiple=True, help="A label; repeatable."),
    click.option("--after", metavar="ok:JOB|any:JOB", multiple=True, help="Wait until JOB succeeded or ended; repeatable."),
    click.option("--idempotency-key", metavar="KEY", help="The same key again gives the same job, not a second one."),
    click.option("--watch", is_flag=True, help="Show progress until the job ends; exit as `synthq watch` does."),
    click.option("--json", "as_json", is_flag=True, help="Print the job as one JSON object."),
    click.option("--id-only", is_flag=True, help="Print the job's id and nothing else."),
    click.option("--dry-run", is_flag=True, help="Print the checked spec and its sha256; submit nothing."),
)


def _common(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _take(flags: Json) -> tuple[Common, Json]:
    """The common flags, and those of the kind."""
    names = Common.__dataclass_fields__
    return Common(**{name: flags[name] for name in names}), {k: v for k, v in flags.items() if k not in names}


class Kinds(click.Group):
    """The kinds of job. A name that is none of them gets a sentence that says how to write it."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in KINDS and not args[0].startswith("-"):
            ctx.fail(f"{args[0]!r} is no kind of job; write `synthq submit {'|'.join(KINDS)} [CONFIG]`")
        return super().resolve_command(ctx, args)


@click.group(cls=Kinds)
def submit() -> None:
    """Queue a job: eval, filter, sft or rl.

    Prints the job's id. The spec comes from CONFIG (a TOML file), from flags, or both; flags win.
    """


def _eval_options(command: F) -> F:
    command = _common(command)
    for option in reversed(
        (
            click.option("--env", metavar="NAME", help="The environment, such as crafter."),
            click.option("--seeds", metavar="SEEDS", help="The seeds to play: 0-9, or 0,3,7-9."),
            click.option(
                "--policy",
                "policies",
                metavar="NAME",
                multiple=True,
                help="Who plays; repeatable, or a comma list.",
            ),
            click.option("--model", metavar="REF", help="A model that plays: a folder, a hub id or an artifact's id."),
            click.option("--policy-config", metavar="JSON", help="Values of eval.policy_config, as a JSON object."),
        )
    ):
        command = option(command)
    return command


def _filter_options(command: F) -> F:
    command = _common(command)
    for option in reversed(
        (
            click.option("--job", "jobs", metavar="JOB", multiple=True, help="A job whose episodes are read; repeatable."),
            click.option(
                "--output", metavar="FILE", help="A .jsonl (or .json) file that the lines are written to when the job is done."
            ),
            click.option(
                "--output-dir", metavar="DIR", help="A folder that every file of the job is written to when it is done."
            ),
        )
    ):
        command = option(command)
    return command


def _train_options(command: F) -> F:
    command = _common(command)
    for option in reversed(
        (
            click.option("--model", metavar="REF", help="The model to train: a folder, a hub id or an artifact's id."),
            click.option(
                "--data", metavar="DATA", help="Lines to learn from (sft): a JSONL file here, a job, or an artifact's id."
            ),
            click.option("--examples", type=click.IntRange(1), metavar="N", help="Learn from the first N lines alone (sft)."),
            click.option("--env", metavar="NAME", help="The environment (rl)."),
            click.option(
                "--warmstart-from",
                metavar="REF",
                help="The adapter or model to begin from: a job that trained it, or as --model.",
            ),
            click.option("--iterations", type=click.IntRange(1), metavar="N", help="How many iterations (rl)."),
            click.option(
                "--extend",
                metavar="JOB[@N]",
                help="Go on exactly where the rl job JOB ended, or where it stood after N updates; --iterations more (rl).",
            ),
        )
    ):
        command = option(command)
    return command


def _eval(**flags: Any) -> int:
    """Play seeds and score the play.

    For example: synthq submit eval --env crafter --seeds 0-9 --policy scripted,random
    """
    common, own = _take(flags)
    given = Overrides()
    given.add("--env", "eval.env", own["env"])
    given.add("--seeds", "eval.seeds", own["seeds"])
    given.add("--policy", "eval.policies", tuple(_label(name) for name in _comma_list(own["policies"])))
    model = found_model(own["model"])
    given.add("--model", "eval.model", model)
    if model is not None and not own["policies"] and (playing := _with_model(common, model)) is not None:
        given.add("--model", "eval.policies", playing)
    given.add_object("--policy-config", "eval.policy_config", own["policy_config"])
    return _submit("eval", common, given)


def _with_model(common: Common, model: str) -> tuple[str, ...] | None:
    """The policies of the file, its one model replaced by the one that --model names; None where that is not what is meant."""
    if common.config is None:
        return None
    from app.specs.source import parse_toml, read_text

    table = parse_toml(read_text(Path(common.config)), common.config).get("eval")
    labels = table.get("policies") if isinstance(table, dict) else None
    labels = [labels] if isinstance(labels, str) else labels
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return None
    asks = [label for label in labels if label.startswith(("model:", "openai:"))]
    if len(asks) != 1:
        return None
    return tuple(f"{label.partition(':')[0]}:{model}" if label in asks else label for label in labels)


def _filter(**flags: Any) -> int:
    """Turn good episodes into training data.

    For example: synthq submit filter --job @last --output train.jsonl --watch
    """
    common, own = _take(flags)
    given = Overrides()
    given.add("--job", "filter.jobs", own["jobs"] if common.dry_run else _job_ids(own["jobs"]))
    given.add("--output", "filter.output", own["output"])
    given.add("--output-dir", "filter.output_dir", own["output_dir"])
    return _submit("filter", common, given)


submit.command("eval")(_eval_options(_eval))
submit.command("filter")(_filter_options(_filter))
eval_alias = click.command("eval", help=f"Same as `submit eval`.\n\n{_eval.__doc__}")(_eval_options(_eval))
filter_alias = click.command("filter", help=f"Same as `submit filter`.\n\n{_filter.__doc__}")(_filter_options(_filter))


@submit.command("sft")
@_train_options
def submit_sft(**flags: Any) -> int:
    """Train a model to say what training data says.

    For example: synthq submit sft --model Qwen/Qwen3-VL-4B-Instruct --data train.jsonl --watch

    --data is a file on this machine, which is checked and sent to the server; or a filter job, whose validation file is used as
    well; or the id of an artifact. What comes out is an artifact, an adapter or a whole model, that `--policy model:ID` plays.
    """
    return _train("sft", flags)


@submit.command("rl")
@_train_options
def submit_rl(**flags: Any) -> int:
    """Improve a model by its own play: it plays, is updated from that, and plays again.

    For example: synthq submit rl configs/crafter_rl_vision_qwen3vl4b.toml --warmstart-from SFT_JOB --iterations 50 --watch

    What comes out are artifacts, the last adapter and the best, that `--policy model:ID` plays. Another rl job goes on from one
    with --warmstart-from, which begins with a new optimizer, or with --extend, which goes on exactly: without CONFIG its spec is
    that of JOB, and --set changes it.
    """
    return _train("rl", flags)


@click.command()
@click.option("--type", "kind", type=click.Choice(["sft", "rl"]), help="Which training; without it, what CONFIG says.")
@_train_options
def train(kind: str | None, **flags: Any) -> int:
    """Same as `submit sft` or `submit rl`, by --type."""
    common, _ = _take(flags)
    if kind is None and common.config is None:
        raise BadFlag("train takes --type sft or --type rl, or a CONFIG that says so")
    return _train(kind, flags)


def _train(kind: str | None, flags: Json) -> int:
    """Submit an sft or rl job; without a kind, the one that the file says."""
    common, own = _take(flags)
    kind = kind or _kind_in(common)
    if kind == "sft":
        return _sft(common, own)
    if kind == "rl":
        return _rl(common, own)
    raise BadFlag(f"train takes specs of sft and rl, and {common.config} is one of {kind}; write `synthq submit {kind}`")


def _kind_in(common: Common) -> str:
    """The kind that a file says it is; flags may yet make it whole. Raises SpecProblems where it says none, or two."""
    from app.specs.kinds import kinds_in
    from app.specs.source import parse_toml, read_text

    tables = parse_toml(read_text(Path(common.config or "")), str(common.config))
    found = kinds_in(tables) if tables.get("kind") is None else [tables["kind"]]
    return str(found[0]) if len(found) == 1 else _spec(None, common, Overrides()).kind


def _rl(common: Common, own: Json) -> int:
    for flag in ("data", "examples"):
        if own[flag] is not None:
            raise BadFlag(f"--{flag} is for sft; an rl job learns from its own play")
    warm = found_model(own["warmstart_from"])
    if warm is not None and not common.dry_run and _is_job(warm):
        (warm,) = _job_ids([warm])
    given = Overrides()
    given.add("--env", "rollout.env", own["env"])
    given.add("--model", "model.base", found_model(own["model"]))
    given.add("--warmstart-from", "model.warmstart_from", warm)
    given.add("--iterations", "training.iterations", own["iterations"])
    begun = None
    if own["extend"] is not None:
        begun, extended = _extended(own["extend"])
        given.add("--extend", "model.extend", extended)
    return _submit("rl", common, given, begun)


def _extended(ref: str) -> tuple[Json, str]:
    """The spec of the job that is gone on from, and how a spec names it: by its whole id, and after how many updates."""
    from app.specs.rl_tables import EXTENDED
    from cli.client import Client

    found = EXTENDED.fullmatch(ref)
    if found is None:
        raise BadFlag(f"--extend {ref} names no job; it takes JOB, or JOB@N for where it stood after N updates")
    with Client() as client:
        job = client.job(found["job"])
        if job["kind"] != "rl":
            raise BadFlag(f"--extend {ref}: job {job['id']} is of the kind {job['kind']}, and only rl jobs are gone on from")
        scopes = client.get(f"/jobs/{job['id']}/metrics", scope="update", limit=1)["scopes"]
    last = next((each["last"] + 1 for each in scopes if each["scope"] == "update"), None)
    updates = found["updates"] or last
    spec = {key: value for key, value in job["spec"].items() if key != "name"}
    return spec, f"{job['id']}@{updates}" if updates else str(job["id"])


def _is_job(ref: str) -> bool:
    """Whether a model is named by the job that made it."""
    from app.specs.engine import ref_fault

    return ref_fault(ref) is not None


def _sft(common: Common, own: Json) -> int:
    """Submit an sft job. The spec is checked, then the file that is to be sent; only then anything goes out."""
    from app.specs.sft import SftSpec
    from cli import sft

    given, file = sft.overrides(
        own, dry_run=common.dry_run, model=found_model(own["model"]), warm=found_model(own["warmstart_from"])
    )
    given.add("--name", "name", common.name)
    spec = _spec("sft", common, given)
    assert isinstance(spec, SftSpec), "it was checked as that"
    lines = None if file is None else sft.looked_at(file, spec)
    if lines is not None and not common.dry_run:
        given.add("--data", "sft.data", sft.uploaded(lines))
    return _submit("sft", common, given, lines=lines)


def found_model(ref: str | None) -> str | None:
    """A model as a spec names it: a folder that is here by its whole path, for the workers stand elsewhere."""
    if ref is None:
        return None
    folder = Path(ref).expanduser()
    near = "/" in ref and not folder.is_absolute() and folder.parent.is_dir()  # then no hub is meant
    if not folder.is_dir() and (near or ref.startswith((".", "~"))):
        raise BadFlag(f"there is no folder {ref} for a model")
    return str(folder.absolute()) if ref and folder.is_dir() else ref


def _label(name: str) -> str:
    """A policy's label, a model's folder in it by its whole path."""
    policy, colon, ref = name.partition(":")
    return f"{policy}:{found_model(ref)}" if policy == "model" and colon else name


def _comma_list(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.strip() for value in values for name in value.split(","))


def _job_ids(refs: Sequence[str]) -> tuple[str, ...]:
    """Full ids of jobs, asked for now: @last must not come to mean the job that is being made."""
    if not refs:
        return ()
    from cli.client import Client

    with Client() as client:
        return tuple(str(client.job(ref)["id"]) for ref in refs)


def _submit(kind: str | None, common: Common, given: Overrides, begun: Json | None = None, *, lines: Lines | None = None) -> int:
    """``begun``: the tables that stand where there is no file. ``lines``: what a dry run does not send."""
    if common.as_json and common.id_only:
        raise BadFlag("--json and --id-only both say what is printed; keep one")
    given.add("--name", "name", common.name)
    checked, told = _request(kind, common, given, begun, lines)
    request = {**checked, **_wishes(common)}
    if common.dry_run:
        return 0
    from cli.client import Client

    with Client() as client:
        key = uuid4().hex if common.idempotency_key is None else _plain_key(common.idempotency_key)
        job = client.post("/jobs", request, **{"Idempotency-Key": key})
        for caution in job.get("warnings") or []:  # the server knows what names mean
            if caution not in told:
                show.say(f"warning: {caution}")
        if job.get("estimate") and not (common.as_json or common.id_only):
            estimated.tell(job["estimate"], cautions=False, short=True)
        return _tell(client, job, common)


def _request(
    kind: str | None, common: Common, given: Overrides, begun: Json | None, lines: Lines | None
) -> tuple[Json, list[str]]:
    """The checked spec as the API takes it, and the warnings that were told of it. In a dry run the whole of it is told."""
    from app import specs

    spec = _spec(kind, common, given, begun)
    request = {"kind": spec.kind, "name": spec.name, "spec": specs.resolved(spec)}
    cautions = specs.warnings(spec)
    for caution in cautions:
        show.say(f"warning: {caution}")
    if common.dry_run:
        sha256 = specs.sha256(spec)
        if not common.as_json:
            show.out(f"{specs.to_toml(spec).rstrip()}\n\n# sha256: {sha256}")
            show.say(f"{spec.kind}: {spec.headline()}; a dry run, so nothing was submitted")
        if lines is not None:
            show.say(f"{lines} would be sent")
        estimate = estimated.asked(request, lines) if spec.kind in estimated.KINDS else None
        if common.as_json:
            show.out_json({**request, "spec_sha256": sha256, "warnings": cautions, "estimate": estimate})
        elif estimate is not None:
            estimated.tell(estimate)
    return request, cautions


def _spec(kind: str | None, common: Common, given: Overrides, begun: Json | None = None) -> AnySpec:
    """The spec of the file and the flags. Raises SpecProblems, with each flag under its own name."""
    from app import specs

    texts = given.texts(common.sets)
    try:
        if common.config is not None:
            return specs.load(Path(common.config), kind=kind, overrides=texts)
        tables: Json = begun or {}
        if begun is None and kind in specs.KINDS and kind in specs.KINDS[kind].model_fields:
            tables = {kind: {}}
        return specs.build(tables, kind=kind, overrides=texts)
    except SpecProblems as problems:
        raise given.named(problems, common.sets) from None


def _wishes(common: Common) -> Json:
    """What a request says beside the spec; only what was given."""
    said = {
        "priority": common.priority,
        "labels": _labels(common.labels),
        "after": [_after(text) for text in common.after],
        "source": Path(common.config).name if common.config else None,
    }
    return {key: value for key, value in said.items() if value not in (None, {}, [])}


def _labels(texts: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise BadFlag(f"--label {text} is no label; it takes KEY=VALUE")
        if labels.setdefault(key.strip(), value) != value:
            raise BadFlag(f"--label {key.strip()} is given twice with other values; keep one")
    return labels


def _after(text: str) -> dict[str, str]:
    on, colon, job = text.partition(":")
    if not colon or on not in ("ok", "any") or not job:
        raise BadFlag(f"--after {text} does not say when; it takes ok:JOB (JOB succeeded) or any:JOB (it ended)")
    return {"job": job, "on": on}


def _plain_key(key: str) -> str:
    if not key or len(key) > 200 or not all("!" <= c <= "~" for c in key):
        raise BadFlag(
            f"--idempotency-key {key[:80]!r} cannot be sent; it takes 1 to 200 letters, digits and signs of ASCII, no spaces"
        )
    return key


def _tell(client: Any, job: Json, common: Common) -> int:
    """Say that the job is there, and watch it when asked to."""
    job_id = str(job["id"])
    if common.id_only:
        show.out(job_id)
    elif not common.as_json:
        show.out("✓ Job created")
        show.out(f"job_id: {job_id}")
    elif not common.watch:
        show.out_json(job)
    if not common.watch:
        if not common.as_json:
            show.say(f"next:\n  synthq watch {job_id}\n  synthq status {job_id}\n  synthq cancel {job_id}")
        return 0
    from cli.follow import detached, finish, watch_job

    try:
        ended = watch_job(client, job_id, own=True)
    except KeyboardInterrupt:
        return detached(job_id, "watch")
    return finish(client, ended, own=True, as_json=common.as_json, quiet=common.id_only)
