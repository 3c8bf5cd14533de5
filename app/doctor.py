"""Is this machine fit to run synthq, and does what runs here work: ``python -m app.doctor``, one JSON object a line.

Each object is a check: ``name``, ``ok`` (true, false, or null where there was nothing to check), ``detail``, and ``hint``: what
to do about one that is not ok. With ``--client`` only what a command line for a server elsewhere needs. Nothing is changed.

What may be broken is imported after it was checked: this file starts with the standard library alone.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Final

AGAIN: Final = "install synthq again: `make install` in its folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one look at the machine found."""

    name: str
    ok: bool | None
    detail: str
    hint: str = ""


def python() -> Check:
    """The version of Python."""
    ok = sys.version_info >= (3, 11)
    return Check(name="python", ok=ok, detail=platform.python_version(), hint="synthq needs Python 3.11 or later")


def packages() -> Check:
    """What synthq depends on is installed, in versions that it works with."""
    try:
        wrong = [text for text in map(_fault, metadata.requires("synthq") or []) if text]
    except (metadata.PackageNotFoundError, ImportError) as error:
        return Check(name="packages", ok=False, detail=f"{error.name} is not installed", hint=AGAIN)
    if wrong:
        return Check(name="packages", ok=False, detail="; ".join(wrong), hint=AGAIN)
    named = ("synthq", "celery", "redis", "sqlmodel", "crafter")
    return Check(name="packages", ok=True, detail=", ".join(f"{name} {metadata.version(name)}" for name in named))


def _fault(line: str) -> str | None:
    """What is wrong with one line of the dependencies, or None."""
    from packaging.requirements import Requirement

    needed = Requirement(line)
    if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
        return None
    try:
        present = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        return f"{needed.name} is not installed"
    fits = needed.specifier.contains(present, prereleases=True)
    return None if fits else f"{needed.name} is {present}, and {needed.specifier} is needed"


def settings() -> Check:
    """Every SYNTHQ_* variable has a value that it may have."""
    from app.errors import BadFlag
    from app.settings import get_settings

    try:
        get_settings()
    except BadFlag as error:
        return Check(name="settings", ok=False, detail=str(error), hint="correct or unset these variables")
    return Check(name="settings", ok=True, detail="every SYNTHQ_* variable can be read")


def checks(*, client: bool = False) -> Iterator[Check]:
    """Every check, one after another; those that stand on one that failed are left out."""
    yield python()
    present = packages()
    yield present
    if client or not present.ok:
        return
    readable = settings()
    yield readable
    if readable.ok:
        from app import doctor_parts

        yield from doctor_parts.checks()


def main() -> int:
    """``python -m app.doctor [--client]``."""
    for check in checks(client="--client" in sys.argv[1:]):
        sys.stdout.write(json.dumps(asdict(check)) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
