"""The OpenAPI document tells the truth: requests made from it, good and bad, get answers that it describes, and never a crash."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import schemathesis
from core.kit import work_through
from fastapi import FastAPI
from schemathesis.config import (
    ChecksConfig,
    GenerationConfig,
    PositiveDataAcceptanceConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.engine import events
from served import Submit

from app.settings import get_settings

KEY = "the-key-of-the-test"
LEAST_S, MOST_S = 20, 240
"""How long requests are made: as long as the first says, and on a busy machine until there were enough of them."""
CHECKS, ENOUGH = ("not_a_server_error", "response_schema_conformance"), 300


@pytest.mark.slow
def test_every_route_answers_as_its_document_says(app: FastAPI, home, submit: Submit, monkeypatch):
    submit()
    work_through()
    monkeypatch.setenv("SYNTHQ_API_KEYS", KEY)
    get_settings.cache_clear()
    project = ProjectConfig(
        headers={"Authorization": f"Bearer {KEY}"},
        generation=GenerationConfig(max_examples=15, deterministic=True, database="none"),
        continue_on_failure=True,
        # A schema cannot say what a spec or a cursor is: much that fits it is rightly refused.
        checks=ChecksConfig(positive_data_acceptance=PositiveDataAcceptanceConfig(enabled=False)),
    )
    config = SchemathesisConfig(seed=20261123, max_time=MOST_S, projects=ProjectsConfig(default=project))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    schema = schema.exclude(path="/readyz")  # 503 is its answer here, where no broker runs
    checked, failures = Counter[str](), []
    began, stream = time.monotonic(), schemathesis.engine.from_schema(schema).execute()
    for event in stream:
        assert not isinstance(event, events.NonFatalError | events.FatalError), event
        if isinstance(event, events.ScenarioFinished):
            for results in event.recorder.checks.values():
                for result in results:
                    checked[result.name] += 1
                    if result.failure_info is not None:
                        failure = result.failure_info
                        failures.append(f"{result.name}: {failure.failure.message}\n{failure.code_sample}")
        if time.monotonic() - began > LEAST_S and all(checked[name] > ENOUGH for name in CHECKS):
            stream.stop()
    assert not failures, "\n\n".join(failures[:5])
    assert all(checked[name] > ENOUGH for name in CHECKS), checked
