from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app import procfile
from app.procfile import Role

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "synthq"}


def test_the_procfile_lists_the_processes_of_the_design_and_no_other() -> None:
    names = [role.name for role in procfile.read(ROOT / "Procfile")]

    assert names == ["api", "scheduler", "rollout", "inference", "trainer", "task-app", "flower"]


def test_what_the_procfile_runs_now_has_its_code() -> None:
    there = {role.name for role in procfile.read(ROOT / "Procfile") if role.missing() is None}

    assert {"api", "scheduler", "rollout", "task-app", "flower"} <= there


def test_the_procfile_is_found_from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    assert procfile.find() == ROOT / "Procfile"


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_service_runs_a_process_of_the_procfile(name: str) -> None:
    command = OURS[name]["command"]
    if command[:2] == ["synthq", "worker"]:
        command = ["python", "-m", procfile.WORKER_MODULE, *command[2:]]
    role = Role(name=name, argv=tuple(command))

    assert role.missing() is None
    assert command[1:] == list(next(each for each in procfile.read(ROOT / "Procfile") if each.name == name).argv)[1:]


def test_every_service_that_others_wait_for_tells_its_health() -> None:
    waited = {name for service in COMPOSE["services"].values() for name in service.get("depends_on", {})}

    assert waited == {"valkey", "postgres", "api"}
    assert all("healthcheck" in COMPOSE["services"][name] for name in waited)


def test_what_is_published_is_on_loopback() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]

    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_secret_is_written_down_and_workers_can_be_scaled() -> None:
    text = (ROOT / "docker" / "compose.yaml").read_text()

    for name in ("POSTGRES_PASSWORD", "VALKEY_PASSWORD"):
        assert f"${{{name}:?" in text
    for line in (ROOT / "docker" / "env.example").read_text().splitlines():
        assert line.startswith("#") or line.endswith("=")
    assert not {"container_name", "ports"} & set(OURS["rollout"])


def test_the_image_runs_without_root_and_with_pinned_versions() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()

    assert lines.index("USER synthq") < next(i for i, line in enumerate(lines) if line.startswith("CMD"))
    assert all("-c constraints.txt" in line for line in lines if line.startswith("RUN pip install"))
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    kept = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert sorted(copied) == sorted(line[1:] for line in kept if line.startswith("!"))
    assert all((ROOT / name).exists() for name in copied)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout with nothing but what make reads."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # `make test` tells a make below it to speak as a part of it.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *words], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_make_alone_lists_every_target(bare: Path) -> None:
    listed = [line.split()[1] for line in make(bare).stdout.splitlines()]

    targets = ["help", "install", "dev", "vllm-env", "demo", "demo-quick", "test", "test-slow", "check", "format", "clean"]
    assert listed == targets


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.8.1\nexit 1\n', "synthq needs Python 3.11 or newer, and"),
        ('#!/bin/sh\ncase "$2" in *venv*) exit 1;; esac\n', "has no venv module"),
    ],
)
def test_a_python_that_will_not_do_is_named(bare: Path, script: str, sentence: str) -> None:
    python = bare / "some-python"
    python.write_text(script)
    python.chmod(0o755)

    ran = make(bare, "install", f"PYTHON={python}")

    assert ran.returncode != 0
    assert sentence in ran.stderr
    assert "some-python" in ran.stderr
    assert not (bare / ".venv").exists()


def test_ci_runs_what_make_offers() -> None:
    text = (ROOT / ".ci" / "run").read_text()

    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert "make --no-print-directory check" in text
    assert "make --no-print-directory test" in text
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_an_environment_of_vllm_takes_no_folder_that_holds_something_else(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    ran = subprocess.run(
        ["bash", str(ROOT / "docker" / "vllm-env"), str(precious)],
        env={**os.environ, "PYTHON": sys.executable, "VLLM_FORM": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr == f"{precious} holds something else than a Python environment; name a folder that is empty or not there\n"
    assert (precious / "thesis.txt").read_text() == "years"


def test_no_two_test_files_have_one_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("conftest.py", "__init__.py")]
    assert sorted(names) == sorted(set(names)), "pytest imports each by its name alone"
