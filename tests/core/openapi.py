"""Requests that are made from an OpenAPI document, good and bad, and whether their answers are what it describes."""

from __future__ import annotations

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


def judge(
    schema: Callable[[SchemathesisConfig], Any],
    *,
    headers: dict[str, str],
    examples: int,
    most_s: float,
    enough: Callable[[Counter[str]], bool] = lambda checked: False,
) -> Counter[str]:
    """Ask for ``most_s`` seconds at the most, or until there is enough; gives how often each check was made. None may fail.

    ``schema`` loads the document, ``examples`` are the most requests that are made for a route in each of the phases.
    """
    project = ProjectConfig(
        headers=headers,
        generation=GenerationConfig(max_examples=examples, deterministic=True, database="none"),
        continue_on_failure=True,
        # A schema cannot say what a spec or a cursor is: much that fits it is rightly refused.
        checks=ChecksConfig(positive_data_acceptance=PositiveDataAcceptanceConfig(enabled=False)),
    )
    config = SchemathesisConfig(seed=20261123, max_time=most_s, projects=ProjectsConfig(default=project))
    checked, failures = Counter[str](), []
    stream = schemathesis.engine.from_schema(schema(config)).execute()
    for event in stream:
        assert not isinstance(event, events.NonFatalError | events.FatalError), event
        if isinstance(event, events.ScenarioFinished):
            for results in event.recorder.checks.values():
                for result in results:
                    checked[result.name] += 1
                    if result.failure_info is not None:
                        failure = result.failure_info
                        failures.append(f"{result.name}: {failure.failure.message}\n{failure.code_sample}")
        if enough(checked):
            stream.stop()
    assert not failures, "\n\n".join(failures[:5])
    return checked
