"""What a run of synthq has where: address, broker, database, logs. Never a password."""

from __future__ import annotations

from app import db, embedded_broker
from app.errors import BrokerUnavailable
from app.flower_process import FlowerSettings, password_file
from app.settings import Settings, read
from app.supervisor.plan import API, FLOWER, TASK_APP, Plan


def address(settings: Settings) -> str:
    """Where the api answers on this host."""
    return _on_this_host(settings.api_host, settings.api_port)


def _on_this_host(host: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def gather(plan: Plan, settings: Settings) -> dict[str, str]:
    """What is where."""
    names = [planned.role.name for planned in plan.processes]
    known: dict[str, str] = {}
    if API in names:
        known["api"] = address(settings)
    known["home"] = str(settings.home)
    known["broker"] = _broker(settings)
    known["database"] = db.safe_url()
    known["logs"] = str(settings.logs_dir)
    if TASK_APP in names:
        known["task-app"] = _on_this_host(settings.task_app_host, settings.task_app_port)
    if FLOWER in names:
        known["flower"] = _flower(settings)
    workers = [planned.role.name for planned in plan.processes if planned.role.is_worker]
    if workers:
        known["workers"] = ", ".join(f"{name} x {workers.count(name)}" for name in dict.fromkeys(workers))
    return known


def _broker(settings: Settings) -> str:
    if settings.redis_url:
        from app import broker  # loads Celery, which nothing else here needs

        return broker.safe_url()
    try:
        return f"embedded {embedded_broker.version(embedded_broker.find_binary())}, {settings.broker_socket}"
    except BrokerUnavailable:
        return "none"  # the start says why, in full


def _flower(settings: Settings) -> str:
    flower = read(FlowerSettings)
    where = "SYNTHQ_FLOWER_PASSWORD" if flower.password else str(password_file(settings))
    return f"http://{flower.address}:{flower.port} (user {flower.user}, password in {where})"
