"""Every engine keeps one contract, and all of them say the same. ``benchmarks/engine_contract.py`` has the checks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from core.kit import use_settings

pytest.importorskip("torch")
from app.engines import why_not
from benchmarks import engine_contract as contract
from benchmarks.contract_reference import Reference
from workers.inference.engines import ENGINES

pytestmark = [pytest.mark.timeout(600)]  # vLLM takes a minute to start, and the first test waits for it

OF_THE_CALLER = {name: os.environ[name] for name in ("SYNTHQ_VLLM_PYTHON",) if name in os.environ}
"""Noted before tests get an environment of their own."""
VLLM = (pytest.mark.vllm, pytest.mark.slow)
EACH = [pytest.param(name, marks=VLLM) if name == "vllm" else name for name in ENGINES]

Serve = Callable[[str], contract.Subject]


@pytest.fixture(scope="session")
def serve(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Gives an engine by name, started once, with the tiny model and two adapters."""
    import torch

    torch.set_num_threads(1)
    folder, base = tmp_path_factory.mktemp("contract"), str(tiny_model)
    adapters = contract.adapters_on(base, folder)
    reference = Reference(base, adapters)
    running: dict[str, contract.Subject] = {}
    with ExitStack() as ends:

        def one(name: str) -> contract.Subject:
            if name not in running:
                with use_settings(OMP_NUM_THREADS="1", **OF_THE_CALLER):  # engines of a tiny model, beside other tests
                    if missing := why_not(name):
                        pytest.skip(missing)
                    serving = contract.serving(name, base, adapters, reference, folder / f"{name}.log")
                    running[name] = ends.enter_context(serving)
            return running[name]

        yield one


@pytest.fixture(params=EACH)
def subject(request: pytest.FixtureRequest, serve: Serve) -> contract.Subject:
    """Each engine in turn."""
    return serve(request.param)


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_an_engine_keeps_the_contract(subject: contract.Subject, check: Callable[[contract.Subject], str]) -> None:
    assert check(subject)


def test_only_synthqs_own_engine_tells_log_probabilities_of_all_where_top_p_cuts(subject: contract.Subject) -> None:
    wanted = {"transformers": "of the whole distribution", "vllm": "of what top_p leaves"}

    assert contract.top_p_is_told_apart(subject) == wanted[subject.name]


@pytest.mark.vllm
@pytest.mark.slow
def test_the_engines_say_the_same(serve: Serve) -> None:
    assert contract.between(serve("transformers"), serve("vllm"))
