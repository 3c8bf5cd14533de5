"""Redis or Valkey: the Celery app, its queues, hints out, nudges in. It carries wake-ups only; the database holds the truth.

A hint is a Celery message that carries the id of a waiting step; whoever gets it claims the best step of that queue. A nudge is
an element in a Redis list that wakes the scheduler. Both may be lost at any moment without harm.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from functools import lru_cache
from typing import Any

import redis
from celery import Celery
from kombu import Exchange
from kombu import Queue as KombuQueue
from redis.exceptions import RedisError

from app.errors import BrokerUnavailable
from app.models import Queue
from app.settings import get_settings

log = logging.getLogger("synthq.broker")

PUBLISH_TIMEOUT_S = 3.0
"""A frozen broker holds a publisher no longer than this."""
NUDGE_TIMEOUT_S = 0.5
PRIORITY_SEPARATOR = "\x06\x16"
"""What kombu puts between a queue's name and a priority above 0 in a Redis key."""


def task_name(queue: Queue | str) -> str:
    """Name of the Celery task that runs steps of a queue."""
    return f"synthq.run_{queue}"


def make_celery() -> Celery:
    """The Celery app. A message is acknowledged when it is received: the lease, not the broker, brings lost work back."""
    settings = get_settings()
    celery = Celery("synthq", broker=settings.broker)
    celery.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_ignore_result=True,
        task_track_started=False,
        task_acks_late=False,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        task_create_missing_queues=False,
        task_queues=[KombuQueue(queue, Exchange(queue, type="direct"), routing_key=queue) for queue in Queue],
        task_default_queue=str(Queue.ROLLOUT),
        task_default_exchange=str(Queue.ROLLOUT),
        task_default_routing_key=str(Queue.ROLLOUT),
        task_routes={task_name(queue): {"queue": str(queue)} for queue in Queue},
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 3600,
            "global_keyprefix": settings.redis_prefix,
            "health_check_interval": 15,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
        },
        worker_send_task_events=True,
        task_send_sent_event=True,
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
        worker_max_tasks_per_child=1000,
        worker_proc_alive_timeout=60.0,
        enable_utc=True,
    )
    return celery


celery: Celery
"""The Celery app of this process. Made when it is first wanted: whoever only imports this has read no settings."""


def __getattr__(name: str) -> Any:
    if name != "celery":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, make_celery())


def _celery() -> Celery:
    """The same for this module itself, whose own names do not go through ``__getattr__``."""
    made: Celery = getattr(sys.modules[__name__], "celery")  # noqa: B009
    return made


def client_url() -> str:
    """The broker's URL in redis-py's spelling."""
    url = get_settings().broker
    return url.replace("redis+socket://", "unix://", 1) if url.startswith("redis+socket://") else url


@lru_cache(maxsize=8)
def client(timeout_s: float) -> redis.Redis:
    """A plain client whose calls fail after ``timeout_s``; one for each timeout."""
    return redis.Redis.from_url(client_url(), socket_timeout=timeout_s, socket_connect_timeout=timeout_s)


def _key(name: str) -> str:
    return f"{get_settings().redis_prefix}{name}"


def ping(timeout_s: float = 1.0) -> None:
    """Ask the broker for a sign of life. Raises BrokerUnavailable."""
    try:
        client(timeout_s).ping()
    except RedisError as error:
        raise BrokerUnavailable(f"the broker at {safe_url()} does not answer: {error}") from error


def safe_url() -> str:
    """The broker's URL without its password."""
    url = client_url()
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://***@{tail}" if at else url


def depth(queue: Queue | str) -> int:
    """Hints that lie in a queue, unread. Raises BrokerUnavailable."""
    keys = [_key(str(queue))] + [_key(f"{queue}{PRIORITY_SEPARATOR}{priority}") for priority in (3, 6, 9)]
    try:
        pipe = client(PUBLISH_TIMEOUT_S).pipeline(transaction=False)
        for key in keys:
            pipe.llen(key)
        return sum(pipe.execute())
    except RedisError as error:
        raise BrokerUnavailable(f"the broker at {safe_url()} does not answer: {error}") from error


class HintPublisher:
    """Sends hints over one connection; for the scheduler's thread alone."""

    def __init__(self) -> None:
        self._producer: Any = None
        self._connection: Any = None

    def publish(self, queue: Queue | str, step_ids: list[str]) -> None:
        """Send one hint for each id. Raises BrokerUnavailable; what was sent before stays sent."""
        try:
            producer = self._ready()
            for step_id in step_ids:
                _celery().send_task(task_name(queue), args=[step_id], queue=str(queue), producer=producer, retry=False)
        except Exception as error:
            self.close()
            raise BrokerUnavailable(f"the broker at {safe_url()} takes no message: {error}") from error

    def close(self) -> None:
        """Drop the connection; the next publish makes a new one."""
        connection, self._producer, self._connection = self._connection, None, None
        if connection is not None:
            connection.release()

    def _ready(self) -> Any:
        if self._producer is None:
            # max_retries: kombu would otherwise try to connect for seconds more, and the next round tries again anyway.
            limits = {"socket_timeout": PUBLISH_TIMEOUT_S, "socket_connect_timeout": PUBLISH_TIMEOUT_S, "max_retries": 0}
            options = {**_celery().conf.broker_transport_options, **limits}
            self._connection = _celery().connection_for_write(transport_options=options)
            self._producer = _celery().amqp.Producer(self._connection, auto_declare=False)
        return self._producer


def wait_for_nudge(timeout_s: float) -> bool:
    """Sleep until somebody nudges or ``timeout_s`` has passed; True for a nudge. Raises BrokerUnavailable."""
    try:
        return client(timeout_s + PUBLISH_TIMEOUT_S).blpop([_key("nudge")], timeout=timeout_s) is not None
    except RedisError as error:
        raise BrokerUnavailable(f"the broker at {safe_url()} does not answer: {error}") from error


class _Nudger:
    """A daemon thread that pokes the scheduler, so that the caller never waits for a broker that is slow or gone."""

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="synthq-nudge", daemon=True)
        self._thread.start()

    def poke(self) -> None:
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            try:
                pipe = client(NUDGE_TIMEOUT_S).pipeline(transaction=False)
                pipe.lpush(_key("nudge"), b"1")
                pipe.ltrim(_key("nudge"), 0, 0)
                pipe.execute()
            except Exception as error:  # noqa: BLE001 - whatever happens, the next nudge must find this thread alive
                log.debug("nudge lost, the scheduler's polling stands in for it: %s", error)


@lru_cache(maxsize=1)
def _nudger() -> _Nudger:
    return _Nudger()


def nudge() -> None:
    """Wake the scheduler soon. Returns at once, whatever the broker does."""
    _nudger().poke()


def forget_inherited() -> None:
    """After a fork: the parent's threads are not here and its sockets are not ours."""
    _nudger.cache_clear()
    client.cache_clear()


os.register_at_fork(after_in_child=forget_inherited)
