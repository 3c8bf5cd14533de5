"""The verb `models`: which command lines it makes, and what the programs behind it write and print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from console import Synthq, program
from test_processes_cli import became

from app import engines, model_folder
from workers import init_tiny

__all__ = ["became"]

TINY = ("workers.init_tiny", "tiny")


@pytest.mark.parametrize(
    ("line", "module"),
    [
        (
            ["init-tiny", "there"],
            [*TINY, "--size", "1m", "--frame-px", "63", "--patch", "7", "--merge", "3", "--seed", "0", "--", "there"],
        ),
        (
            [
                "init-tiny",
                "--size",
                "3m",
                "--frame-px",
                "64",
                "--patch",
                "8",
                "--merge",
                "2",
                "--seed",
                "4",
                "--json",
                "--",
                "-x",
            ],
            [*TINY, "--size", "3m", "--frame-px", "64", "--patch", "8", "--merge", "2", "--seed", "4", "--json", "--", "-x"],
        ),
        (
            ["init-random", "there", "--like", "qwen3-vl-4b", "--layers", "4"],
            ["workers.init_tiny", "random", "--like", "qwen3-vl-4b", "--layers", "4", "--seed", "0", "--", "there"],
        ),
        (["export", "org/name", "there"], ["workers.model.export", "--", "org/name", "there"]),
        (
            ["export", "a", "b", "--merge", "--base", "c", "--json"],
            ["workers.model.export", "--merge", "--base", "c", "--json", "--", "a", "b"],
        ),
    ],
)
def test_a_verb_becomes_its_program_with_its_flags(
    synthq: Synthq, became: list[list[str]], line: list[str], module: list[str]
) -> None:
    assert synthq("models", *line).code == 0
    assert became == [["-m", *module]]


def test_a_tiny_model_is_made_and_exported_by_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    made = program("models", "init-tiny", str(folder), timeout=200)
    assert made.code == 0, made.err
    assert "parameters with random weights" in made.out
    assert "a frame of 63 x 63 pixels is 9 image tokens" in made.out
    assert isinstance(model_folder.read(folder), model_folder.BaseFolder)
    again = program("models", "init-tiny", str(folder))
    assert (again.code, again.out) == (2, "")
    assert again.err == f"Error: {folder} is not empty; name a folder that is, or one that is not there yet\n"
    copied = program("models", "export", str(folder), str(tmp_path / "copy"), "--json", timeout=200)
    assert copied.code == 0, copied.err
    assert copied.json["kind"] == "base"
    assert copied.json["sha256"] in made.out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["tiny", "there", "--frame-px", "64"], "frame_px must be a multiple of patch x merge = 21, such as 63, not 64"),
        (["random", "there", "--like", "qwen3-vl"], "no published Qwen3-VL named 'qwen3-vl'; did you mean"),
        (["random", "there", "--like", "qwen3-vl-4b", "--layers", "1"], "layers must be 3 to 36, not 1"),
    ],
)
def test_flags_that_cannot_be_right_are_told_at_once(
    line: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(init_tiny, "texts", lambda **_: pytest.fail("it began to play"))
    assert init_tiny.main(line) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_torch_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "torch" else object())
    assert init_tiny.main(["tiny", "there"]) == 2
    assert capsys.readouterr().err == "Error: torch not installed; `make install` brings what is missing\n"


@pytest.mark.parametrize("module", ["cli.models", "workers.init_tiny", "workers.model.export"])
def test_what_stands_before_the_check_for_torch_needs_none(module: str) -> None:
    probe = f"import sys, {module}; print({{'torch', 'transformers', 'tokenizers', 'safetensors', 'peft'}} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_what_is_made_is_told_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(init_tiny, "TURNS", 1)
    assert init_tiny.main(["tiny", str(tmp_path / "tiny"), "--json", "--seed", "3"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(tmp_path / "tiny")
    assert told["frame_tokens"] == 9
    assert json.loads((tmp_path / "tiny" / "synthq.json").read_text())["seed"] == 3
