"""How engines are found and started: their commands say what a spec's [vllm] table says."""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from app import engines as here
from app.errors import BadModel, NotHere, UnknownName
from app.settings import get_settings
from app.specs.engine import VllmTable
from app.specs.eval import EvalTable
from workers.inference import engines


@pytest.fixture
def with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of vLLM, as far as commands go."""
    monkeypatch.setenv("SYNTHQ_VLLM_PYTHON", sys.executable)
    get_settings.cache_clear()


def flags(command: list[str]) -> dict[str, str]:
    """The flags that have a value."""
    return {flag: value for flag, value in pairwise(command) if flag.startswith("--") and value[:2] != "--"}


def vllm(base: str, **options: object) -> list[str]:
    return engines.make("vllm").command(base, options, host="127.0.0.1", port=1)


def test_every_engine_that_a_spec_may_name_is_there() -> None:
    named = get_args(EvalTable.model_fields["engine"].annotation)
    assert {*engines.ENGINES, here.AUTO} == set(named)
    assert {engines.make(name).name for name in engines.ENGINES} == set(engines.ENGINES)


@pytest.fixture
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Python was looked at before."""
    monkeypatch.setattr(here, "_versions", {})


@pytest.mark.usefixtures("with_vllm", "nothing_known")
def test_a_python_without_vllm_is_no_engine_and_that_is_said() -> None:
    said = f"SYNTHQ_VLLM_PYTHON={sys.executable} is no Python of an environment with vLLM; it takes the path of one"

    assert (here.why_not("vllm") or "").startswith(said)
    assert "vllm" not in here.startable()
    with pytest.raises(NotHere, match=re.escape(said)):
        here.choose("vllm")


@pytest.mark.usefixtures("nothing_known")
def test_a_folder_named_vllm_where_one_stands_is_no_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)

    assert here.vllm_version(Path(sys.executable)) == ""


@pytest.mark.usefixtures("nothing_known")
def test_an_environment_is_asked_for_its_vllm_until_it_has_it(tmp_path: Path) -> None:
    asked, python = tmp_path / "asked", tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho once >>{asked}\ncat {tmp_path}/version 2>/dev/null\n")
    python.chmod(0o755)

    assert [here.vllm_version(python) for _ in range(2)] == ["", ""]
    (tmp_path / "version").write_text("0.32.0\n")
    assert [here.vllm_version(python) for _ in range(3)] == ["0.32.0"] * 3
    assert asked.read_text().count("once") == 3


def test_an_unknown_engine_is_told_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"no engine named 'vlm'; did you mean 'vllm'\? \(known: transformers, vllm\)"):
        engines.make("vlm")


def test_synthqs_own_engine_is_started_as_the_table_says() -> None:
    pytest.importorskip("torch")
    options = VllmTable(max_model_len=256, max_num_seqs=3, max_loras=2, max_lora_rank=5, dtype="bfloat16").model_dump()
    command = engines.make("transformers").command("/m", options | {"enable_prefix_caching": False}, host="::1", port=99)

    from workers.inference.server.options import parse

    assert command[:3] == [sys.executable, "-m", "workers.inference.server"]
    read = parse(command[3:])
    assert (read.model, read.host, read.port, read.max_model_len, read.max_num_seqs) == ("/m", "::1", 99, 256, 3)
    assert (read.max_loras, read.max_lora_rank, read.limit_images, read.dtype, read.prefix_bytes) == (2, 5, 1, "bfloat16", 0)


@pytest.mark.usefixtures("with_vllm")
def test_vllm_is_started_as_the_table_says(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "gpus", lambda: 2)
    command = vllm(str(tiny_model), max_model_len=256, max_lora_rank=9, tensor_parallel_size=4, limit_mm_per_prompt={"image": 3})

    told = flags(command)
    assert command[:2] == [sys.executable, "-m"]
    assert told["--model"] == told["--served-model-name"] == str(tiny_model)
    assert json.loads(told["--limit-mm-per-prompt"]) == {"image": 3, "video": 0}
    assert (told["--max-lora-rank"], told["--max-loras"], told["--max-cpu-loras"]) == ("16", "4", "8")
    assert (told["--tensor-parallel-size"], told["--gpu-memory-utilization"], told["--dtype"]) == ("2", "0.85", "auto")
    assert (told["--logprobs-mode"], told["--generation-config"]) == ("processed_logprobs", "vllm")
    assert {"--enable-lora", "--enable-prefix-caching", "--no-enforce-eager", "--enable-per-request-metrics"} <= set(command)


@pytest.mark.usefixtures("with_vllm")
def test_vllm_on_a_cpu_computes_in_float32_and_takes_a_bounded_part_of_the_memory(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "gpus", lambda: 0)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    command = vllm(str(tiny_model))

    told = flags(command)
    assert told["--dtype"] == "float32"
    assert int(told["--kv-cache-memory-bytes"]) < 2 * 1024**3
    assert "--enforce-eager" in command
    assert "--gpu-memory-utilization" not in told
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    assert "--kv-cache-memory-bytes" not in flags(vllm(str(tiny_model)))


@pytest.mark.usefixtures("with_vllm")
def test_a_model_that_holds_less_is_served_with_what_it_can(tiny_model: Path) -> None:
    held = json.loads((tiny_model / "config.json").read_text())["text_config"]["max_position_embeddings"]

    assert flags(vllm(str(tiny_model), max_model_len=1_000_000))["--max-model-len"] == str(held)
    assert flags(vllm("org/name", max_model_len=1_000_000))["--max-model-len"] == "1000000"


@pytest.mark.usefixtures("with_vllm")
def test_what_vllm_cannot_serve_is_told_before_it_is_started(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="no folder"):
        vllm(str(tmp_path / "nothing"))
    with pytest.raises(BadModel, match="neither"):
        vllm(str(tmp_path))


@pytest.mark.usefixtures("with_vllm")
@pytest.mark.parametrize(("asked", "given"), [(1, "1"), (2, "8"), (16, "16"), (65, "128"), (512, "512")])
def test_the_rank_is_the_least_that_vllm_takes(tiny_model: Path, asked: int, given: str) -> None:
    assert flags(vllm(str(tiny_model), max_lora_rank=asked))["--max-lora-rank"] == given


def test_without_an_environment_of_vllm_the_sentence_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "vllm_python", lambda: None)

    with pytest.raises(NotHere, match="make vllm-env"):
        vllm("org/name")


def test_the_key_stands_in_no_command(tiny_model: Path, with_vllm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHQ_ENGINE_KEY", "open-sesame")
    get_settings.cache_clear()

    assert "open-sesame" not in " ".join(vllm(str(tiny_model)))
    assert engines.make("vllm").environment(str(tiny_model), {})["VLLM_API_KEY"] == "open-sesame"
    assert engines.make("vllm").environment("org/name", {}).get("HF_HUB_OFFLINE") is None
    assert engines.make("vllm").environment(str(tiny_model), {})["HF_HUB_OFFLINE"] == "1"
