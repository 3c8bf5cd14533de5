"""Requests that are made from an OpenAPI document, good and bad, and whether their answers are what it describes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import schemathesis
from schemathesis.config import (
    ChecksConfig,
    GenerationConfig,
    PositiveDataAcceptanceConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.engine import events

LEAST_S, MOST_S = 3, 240
"""How long requests are made: as long as the first says, and on a busy machine until every route had enough of them."""
CHECKS = ("not_a_server_error", "response_schema_conformance")


def judge(schema: Callable[[SchemathesisConfig], Any], *, headers: dict[str, str], examples: int, least: int) -> None:
    """Ask for a while, until every route was and each of the checks was made more than ``least`` times. None may fail.

    ``schema`` loads the document, ``examples`` are the most requests that are made for a route in each of the phases.
    """
    project = ProjectConfig(
        headers=headers,
        request_timeout=60,
        generation=GenerationConfig(max_examples=examples, deterministic=True, database="none"),
        continue_on_failure=True,
        # A schema cannot say what a spec or a cursor is: much that fits it is rightly refused.
        checks=ChecksConfig(positive_data_acceptance=PositiveDataAcceptanceConfig(enabled=False)),
    )
    config = SchemathesisConfig(seed=20261123, max_time=MOST_S, projects=ProjectsConfig(default=project))
    loaded = schema(config)
    waiting = {each.ok().label for each in loaded.get_all_operations()}
    checked, failures = Counter[str](), []
    began, stream = time.monotonic(), schemathesis.engine.from_schema(loaded).execute()
    for event in stream:
        assert not isinstance(event, events.NonFatalError | events.FatalError), event
        if isinstance(event, events.ScenarioFinished):
            if event.recorder.checks:
                waiting.discard(event.recorder.label)
            for results in event.recorder.checks.values():
                for result in results:
                    checked[result.name] += 1
                    if result.failure_info is not None:
                        failure = result.failure_info
                        failures.append(f"{result.name}: {failure.failure.message}\n{failure.code_sample}")
        if not waiting and time.monotonic() - began > LEAST_S and all(checked[name] > least for name in CHECKS):
            stream.stop()
    assert not failures, "\n\n".join(failures[:5])
    assert not waiting
    assert all(checked[name] > least for name in CHECKS), checked
