"""The verbs for stores that come and go: which programs they become, and the whole way through the real ones."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from stores.store_kit import Home

from cli.main import main

LINES = {
    "traces import a.db": "workers.rollout.bring_in -- a.db",
    "traces import -- -a.db": "workers.rollout.bring_in -- -a.db",
    "traces import a.db --name x --artifacts s3://b --dry-run --json": (
        "workers.rollout.bring_in --name x --artifacts s3://b --dry-run --json -- a.db"
    ),
    "traces merge a.db b.db --json": "workers.rollout.bring_in --json -- a.db b.db",
    "db migrate": "app.migrate",
    "db backup x.zip --with-artifacts --overwrite": "app.backup backup --with-artifacts --overwrite -- x.zip",
    "db restore x.zip --replace --json": "app.backup restore --replace --json -- x.zip",
    "db prune": "app.retention",
    "db prune --jobs-days 0 --frames-days 1.5 --unknown-files --dry-run --json": (
        "app.retention --jobs-days 0.0 --frames-days 1.5 --unknown-files --dry-run --json"
    ),
    "fsck --repair --json": "app.fsck --repair --json",
}


@pytest.mark.parametrize("line", LINES)
def test_a_verb_becomes_its_program_with_its_flags(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    became: list[list[str]] = []

    def execve(path: str, argv: list[str], env: dict[str, str]) -> None:
        assert path == argv[0] == sys.executable
        became.append(argv[1:])
        raise SystemExit(0)

    monkeypatch.setattr("os.execve", execve)
    assert main(shlex.split(line)) == 0
    assert became == [["-m", *shlex.split(LINES[line])]]


@pytest.mark.parametrize("line", ["traces import", "traces merge", "db backup", "db restore", "db prune --jobs-days -1"])
def test_what_is_missing_or_cannot_be_is_refused_at_once(own_home: Path, line: str) -> None:
    assert main(shlex.split(line)) == 2
    assert list(own_home.iterdir()) == []


def run(*words: str) -> tuple[int, str, str]:
    """A command line as a program of its own: exit code, stdout, stderr."""
    ran = subprocess.run([sys.executable, "-m", "cli.main", *words], capture_output=True, text=True, timeout=120, env=os.environ)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.integration
def test_a_store_goes_the_whole_way_by_the_real_programs(own_home: Path, other: Home) -> None:
    code, out, err = run("traces", "import", str(other.db), "--json")
    assert code == 0, err
    assert json.loads(out)["sources"][0]["new"]["job"] == 2
    assert run("fsck")[0] == 0
    saved = str(own_home / "x.backup")
    assert run("db", "backup", saved, "--with-artifacts")[0] == 0
    code, _, err = run("db", "restore", saved)
    assert (code, err.count("\n")) == (5, 1), "one sentence, no traceback"
    assert run("db", "restore", saved, "--replace")[0] == 0
    code, out, _ = run("db", "prune", "--json")
    assert (code, json.loads(out)["jobs"]) == (0, 0)
    code, out, err = run("traces", "import", str(own_home / "nope.db"))
    assert (code, out, err) == (3, "", f"Error: there is no file {own_home / 'nope.db'}\n")
