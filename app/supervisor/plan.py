"""What ``synthq up`` is asked to run, made into a list of processes. Looks, and starts nothing."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app import engines, procfile
from app.errors import BadFlag, Conflict, NotHere, did_you_mean
from app.flower_process import MISSING, FlowerSettings
from app.procfile import Role
from app.settings import Settings, read

DEFAULT_WORKERS = {"rollout": 2}
"""Processes of a worker role when ``--workers`` does not say; others have one."""
API, SCHEDULER, TASK_APP, FLOWER = "api", "scheduler", "task-app", "flower"
INFERENCE, TRAINER = "inference", "trainer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The flags of ``synthq up``."""

    workers: Mapping[str, int] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    flower: bool = True
    port: int | None = None
    procfile: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One process to run: ``rollout-2`` of the role ``rollout``."""

    name: str
    role: Role
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables that it alone has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Processes in the order in which they start, and a sentence for each role that is left out."""

    processes: tuple[Planned, ...]
    skipped: tuple[str, ...]


def workers_flag(words: Iterable[str]) -> dict[str, int]:
    """``rollout=2`` and ``rollout=2,trainer=1`` as numbers. Raises BadFlag."""
    counts: dict[str, int] = {}
    for word in (part for each in words for part in each.split(",")):
        name, equals, number = word.partition("=")
        if not equals or not name.strip() or not number.strip().isascii() or not number.strip().isdigit():
            raise BadFlag(f"--workers {word} is no role with a number of processes, such as rollout=2")
        counts[name.strip()] = int(number)
    return counts


def make(options: Options, settings: Settings) -> Plan:
    """Choose the processes. Raises BadFlag for a name that the Procfile does not have."""
    roles = procfile.read(options.procfile or procfile.find())
    _check_names(options, roles)
    wanted: list[Role] = []
    skipped: list[str] = []
    for role in roles:
        if options.only and role.name not in options.only:
            continue
        if why := _why_not(role, options, settings):
            skipped.append(f"{role.name}: {why}")
            continue
        wanted.append(role)
    planned = _processes(wanted, options, settings)
    if not planned:
        raise BadFlag(f"nothing to run: {'; '.join(skipped) or 'every role was given 0 processes'}")
    return Plan(processes=tuple(planned), skipped=tuple(skipped))


def _check_names(options: Options, roles: list[Role]) -> None:
    for flag, names, known in (
        ("--only", options.only, [role.name for role in roles]),
        ("--workers", tuple(options.workers), [role.name for role in roles if role.is_worker]),
    ):
        for name in names:
            if name not in known:
                raise BadFlag(f"{flag} {name}: no such role{did_you_mean(name, known)} (known: {', '.join(known)})")


def _why_not(role: Role, options: Options, settings: Settings) -> str | None:
    """Why a role stays out of this run, or None."""
    if module := role.missing():
        return f"not in this release yet ({module} is missing)"
    if role.name == TASK_APP:
        return _why_no_task_app(settings)
    if role.name == INFERENCE:
        return _why_no_inference(options, settings)
    if role.name == TRAINER:
        return _why_no_trainer(options)
    if role.name != FLOWER:
        return None
    flower = read(FlowerSettings)
    if not options.flower or not flower.port:
        return "left out on request"
    if importlib.util.find_spec("flower") is None:
        return MISSING
    if taken("127.0.0.1", flower.port):
        return f"port {flower.port} is taken by another program; SYNTHQ_FLOWER_PORT gives it another one"
    return None


def _why_no_inference(options: Options, settings: Settings) -> str | None:
    """Who did not ask for an engine is told of the easiest way to one, others what is missing for theirs."""
    asked = options.workers.get(INFERENCE)
    if asked == 0:
        return None
    try:
        engines.choose()
    except NotHere as error:
        if asked or INFERENCE in options.only or settings.engine != engines.AUTO:
            return str(error)
        return f"no model can be served without torch and transformers; `{engines.INSTALL}` brings them"
    return None


def _why_no_trainer(options: Options) -> str | None:
    """As above: it trains with what the engine ``transformers`` serves with."""
    asked = options.workers.get(TRAINER)
    missing = None if asked == 0 else engines.why_not(engines.TRANSFORMERS)
    if missing is None or asked or TRAINER in options.only:
        return missing
    return f"no model can be trained without torch and transformers; `{engines.INSTALL}` brings them"


def _why_no_task_app(settings: Settings) -> str | None:
    from app import auth  # loads FastAPI, which nothing else here needs

    host, port = settings.task_app_host, settings.task_app_port
    if not port:
        return "left out on request"
    auth.check_task_app_address()
    _check_host("SYNTHQ_TASK_APP_HOST", host)
    if taken(host, port):
        return f"port {port} is taken by another program; SYNTHQ_TASK_APP_PORT gives it another one"
    return None


def _processes(roles: list[Role], options: Options, settings: Settings) -> list[Planned]:
    counts = {role.name: options.workers.get(role.name, DEFAULT_WORKERS.get(role.name, 1)) for role in roles if role.is_worker}
    serving, training = engines.gpu_shares(counts.get(INFERENCE, 0), counts.get(TRAINER, 0), settings.trainer_devices)
    shares = {INFERENCE: serving, TRAINER: training}
    planned = []
    for role in roles:
        if not role.is_worker:
            planned.append(Planned(name=role.name, role=role))
            continue
        own = shares.get(role.name, [{}] * counts[role.name])
        planned += [Planned(name=f"{role.name}-{number}", role=role, env=env) for number, env in enumerate(own, start=1)]
    return planned


def choose_port(host: str, port: int) -> int:
    """The port that the api gets; 0 asks for any free one. Raises Conflict when it is taken."""
    if port == 0:
        _check_host("SYNTHQ_API_HOST", host)
        with socket.socket() as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])
    _check_host("SYNTHQ_API_HOST", host)
    if taken(host, port):
        raise Conflict(f"port {port} on {host} is taken by another program; set SYNTHQ_API_PORT or give --port (0: any free one)")
    return port


def _check_host(variable: str, host: str) -> None:
    """Raises BadFlag for a host that this machine does not have."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise BadFlag(
            f"{variable}={host} is no address of this machine ({error.strerror or error}); 127.0.0.1 is this one alone"
        ) from None


def taken(host: str, port: int) -> bool:
    """Whether a port cannot be listened on. A port that was just given up can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
