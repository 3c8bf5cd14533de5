from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = ("embedded", "postgres", "gym", "flower", "model", "plots", "qlora", "dev")


def pins() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def asked() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(text) for text in [*project["dependencies"], *(each for name in EXTRAS for each in extras[name])]]


def applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})


def brought(start: list[Requirement]) -> Iterator[str]:
    """Every package that the requirements bring here, themselves and what those need in turn."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [each for each in start if applies(each, set())]
    while waiting:
        each = waiting.pop()
        key = canonicalize_name(each.name), frozenset(each.extras)
        if key in seen:
            continue
        seen.add(key)
        yield key[0]
        try:
            needs = requires(each.name) or []
        except PackageNotFoundError:  # an extra that is not installed here; the direct requirement is still checked
            continue
        waiting += [need for text in needs if applies(need := Requirement(text), set(each.extras))]


def test_every_extra_of_the_project_is_known_here() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert set(project["optional-dependencies"]) == set(EXTRAS)


def test_every_package_that_an_install_brings_is_pinned() -> None:
    assert sorted(set(brought(asked())) - set(pins())) == []


def test_every_pin_is_one_that_the_project_takes() -> None:
    pinned = pins()
    for requirement in asked():
        for pin in pinned[canonicalize_name(requirement.name)]:
            (exact,) = pin.specifier
            assert exact.operator == "=="
            assert requirement.specifier.contains(exact.version), f"{pin} is not what pyproject.toml asks: {requirement}"


def test_what_is_installed_is_what_is_pinned() -> None:
    wrong = []
    for name in set(brought(asked())):
        applicable = [pin for pin in pins()[name] if applies(pin, set())]
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if not any(pin.specifier.contains(installed, prereleases=True) for pin in applicable):
            wrong.append(f"{name} {installed}")
    assert wrong == []


def test_no_line_names_an_address_or_a_hash() -> None:
    text = (ROOT / "constraints.txt").read_text()

    assert not re.search(r"https?:|file:|ssh:|@|\.whl|--hash|--index|--find", text)
    assert not [line for line in text.splitlines() if line.startswith("-")]
