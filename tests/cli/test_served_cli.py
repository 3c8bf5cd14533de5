"""`models list`, `models show` and `models endpoints`, against the real API."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from console import Synthq
from core import model_folders

from app import db, endpoints
from app.endpoints import desired


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model_folders.base(tmp_path / "here" / "tiny")


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return model_folders.adapter(tmp_path / "here" / "lora", base)


def submitted(served: Synthq, ref: object) -> str:
    ran = served("submit", "eval", "--policy", f"model:{ref}", "--seeds", "0", "--id-only")
    assert ran.code == 0, ran.err
    return ran.out.strip()


def test_a_server_without_models_or_endpoints_says_how_to_get_them(served: Synthq) -> None:
    ran = served("models", "list")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "no job has named or made a model yet\n`synthq models init-tiny models/tiny` makes a tiny one\n"
    assert "no inference worker is alive; `synthq worker inference` starts one" in served("models", "endpoints").err


def test_folders_with_models_that_no_job_has_named_are_told_beside_the_list(served: Synthq, base: Path, adapter: Path) -> None:
    with_two = model_folders.base(base.parent / "models" / "two of it")
    told = "no job has named what is in lora, models/two of it, tiny: `synthq models show lora` tells of it, "
    ran = served("models", "list")
    assert (ran.code, ran.out) == (0, "")
    assert f"{told}`synthq submit eval --model lora` plays with it" in ran.err
    assert "init-tiny" not in ran.err
    submitted(served, adapter)
    assert "no job has named what is in models/two of it, tiny: " in served("models", "list").err
    submitted(served, base)
    assert "`synthq models show 'models/two of it'` tells of it" in served("models", "list").err
    submitted(served, with_two)
    assert served("models", "list").err == ""


def test_models_are_listed_with_what_they_are_on_and_who_uses_them(served: Synthq, base: Path, adapter: Path) -> None:
    submitted(served, base)
    submitted(served, "./lora")
    lines = served("models", "list").out.splitlines()
    assert lines[0].split() == ["MODEL", "KIND", "ON", "JOBS", "LAST"]
    assert lines[1].split()[:4] == [str(adapter), "adapter", str(base), "1"]
    assert lines[2].split()[:3] == [str(base), "base", "1"]
    assert len(served("models", "list", "--limit", "1").out.splitlines()) == 2
    told = json.loads(served("models", "list", "--json").out)
    assert [row["kind"] for row in told["data"]] == ["adapter", "base"]


def test_a_model_is_shown_with_its_facts_and_its_jobs(served: Synthq, adapter: Path, base: Path) -> None:
    fresh = served("models", "show", "./lora").out
    assert "used by     no job yet" in fresh
    job = submitted(served, adapter)
    shown = dict(line.split("  ", 1) for line in served("models", "show", "lora").out.splitlines())
    shown = {name: value.strip() for name, value in shown.items()}
    assert shown["model"] == str(adapter)
    assert shown["on"] == str(base)
    assert shown["rank"] == "4, alpha 8"
    assert shown["layers"] == "q_proj"
    assert shown["used by"] == job
    assert shown["served by"] == "no endpoint"
    whole = served("models", "show", str(base)).out
    assert "21 x 21 pixels a token (patches of 7, 3 x 3 merged)" in whole
    assert "4,096 tokens at most" in whole
    assert json.loads(served("models", "show", "lora", "--json").out)["facts"]["rank"] == 4


def test_what_is_no_model_is_said_with_its_exit_code(served: Synthq, tmp_path: Path) -> None:
    ran = served("models", "show", "qwen")
    assert (ran.code, ran.out) == (3, "")
    assert "no model matches 'qwen'; `synthq models list` shows those that jobs have named or made" in ran.err
    ran = served("models", "show", ".")
    assert ran.code == 2
    assert "has neither config.json (a whole model) nor adapter_config.json (an adapter)" in ran.err
    ran = served("submit", "eval", "--policy", f"model:{tmp_path}", "--seeds", "0")
    assert ran.code == 2
    assert "eval.policies.0" in ran.err


def test_endpoints_tell_what_they_serve_what_they_should_and_what_went_wrong_in_full(served: Synthq, base: Path) -> None:
    submitted(served, base)
    id = endpoints.register("inference-1", engines=["transformers"], host="box")
    endpoints.report(id, state="ready", base="/models/other", engine="transformers", capacity=8, in_flight=3, url="http://x")
    desired.tend()
    lines = served("models", "endpoints").out.splitlines()
    assert lines[0].split() == ["ENDPOINT", "HOST", "STATE", "ENGINE", "MODEL", "REQUESTS", "SINCE", "SHOULD", "SERVE"]
    assert lines[1].split()[:8] == [id, "box", "ready", "transformers", "/models/other", "3", "of", "8"]
    assert lines[1].endswith(str(base))
    assert "refused" not in served("models", "endpoints").out
    endpoints.report(id, state="failed", base=str(base), error="engine transformers ended (exit status 1): " + "so it is " * 30)
    wanted = endpoints.desired_of(id)
    endpoints.failed(id, "adapter-a", "the engine refused the adapter: its rank is 128", model=wanted)
    lines = served("models", "endpoints").out.splitlines()
    assert lines[2:] == [
        "",
        f"{id}:",
        "  engine transformers ended (exit status 1): " + ("so it is " * 30).strip(),
        "  adapter-a: the engine refused the adapter: its rank is 128",
    ]
    endpoints.stopped(id)
    assert "stopped" in served("models", "endpoints", "--all").out
    assert json.loads(served("models", "endpoints", "--json").out)["data"] == []
    with db.reading() as session:
        assert endpoints.live(session) == []
