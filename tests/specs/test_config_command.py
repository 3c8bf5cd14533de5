"""`synthq config`: what it prints, where, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app import specs
from cli.main import main

CONFIGS = [str(path) for path in sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "good.toml"
    file.write_text("[eval]\nseeds = '0-9'\n")
    return file


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.toml"
    file.write_text("[eval]\nseeds = '0-9'\nsedes = 3\n")
    return file


def test_check_prints_one_line_a_file(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(good), *CONFIGS]) == 0
    out, err = capsys.readouterr()
    sha256 = specs.sha256(specs.load(good))
    assert out.splitlines()[0] == f"✓ {good}: eval, 10 seeds of crafter, scripted, 10 episodes, sha256 {sha256[:12]}"
    assert len(out.splitlines()) == 1 + len(CONFIGS)
    assert all(line.startswith("  ! ") for line in err.splitlines()), "warnings of the rl file alone"


def test_check_tells_the_problems_of_every_file_on_stderr(good: Path, bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(bad), str(good), str(bad.parent / "none.toml")]) == 2
    out, err = capsys.readouterr()
    assert out.startswith(f"✓ {good}")
    assert f"{bad}:3: eval.sedes: no such key; did you mean 'seeds'?" in err
    assert "none.toml: there is no such file" in err


def test_check_tells_what_looks_like_a_mistake_and_passes(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(good), "--set", "eval.env=craftr"]) == 0
    assert "did you mean 'crafter'?" in capsys.readouterr().err


def test_check_holds_a_file_to_a_kind(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(good), "--kind", "filter"]) == 2
    assert "this is a spec for eval, and filter was asked for" in capsys.readouterr().err


def test_show_prints_toml_that_loads_as_the_same(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", str(good), "--set", "eval.max_turns=7"]) == 0
    again = tmp_path / "again.toml"
    again.write_text(capsys.readouterr().out)
    assert specs.load(again) == specs.load(good, overrides=["eval.max_turns=7"])


def test_show_tells_where_each_value_came_from(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", str(good), "--origin", "--set", "eval.max_turns=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f'seeds = "0-9"  # {good}:2' in lines
    assert "max_turns = 7  # --set" in lines
    assert 'reward = "unlocked"  # default' in lines


def test_show_prints_the_json_that_is_stored(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", str(good), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == specs.resolved(specs.load(good))
    assert main(["config", "show", str(good), "--json", "--origin"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert both["spec"] == specs.resolved(specs.load(good))
    assert both["origin"]["eval.seeds"] == f"{good}:2"


def test_show_of_a_wrong_file_prints_nothing_on_stdout(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", str(bad)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: 1 problem in the spec:")


@pytest.mark.parametrize("kind", list(specs.KINDS))
def test_schema_prints_json_schema(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", kind]) == 0
    assert json.loads(capsys.readouterr().out) == specs.schema(kind)


def test_schema_of_no_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", "evl"]) == 2
    assert "did you mean 'eval'?" in capsys.readouterr().err


def test_the_command_is_imported_without_pydantic() -> None:
    program = "import sys, cli.config; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
