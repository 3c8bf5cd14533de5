"""The Procfile: the one list of synthq's processes, and which of them this release has the code for. Starts nothing.

The file lies beside the packages in a checkout and in the image, and in the environment's ``share/synthq`` when synthq was
installed from a wheel. A line is ``name: command``; no shell reads it. ``python`` means the Python that runs now.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from app.errors import InvalidInput, NotFound

LINE = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_-]*):\s*(?P<command>\S.*)")
WORKER_MODULE = "workers.main"
"""``python -m workers.main ROLE`` runs a worker; the role's own code is the package ``workers.ROLE``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One line of the Procfile."""

    name: str
    argv: tuple[str, ...]

    @property
    def module(self) -> str | None:
        """The module that ``python -m`` runs; None for another command."""
        at = self.argv.index("-m") if "-m" in self.argv else -1
        return self.argv[at + 1] if 0 <= at < len(self.argv) - 1 else None

    @property
    def is_worker(self) -> bool:
        """Whether its processes hold steps."""
        return self.module == WORKER_MODULE

    def missing(self) -> str | None:
        """The module that this release does not have yet, or None when the role can run."""
        needed = [self.module, f"workers.{self.argv[-1]}" if self.is_worker else None]
        return next((name for name in needed if name is not None and not exists(name)), None)


def find() -> Path:
    """The Procfile of this installation. Raises NotFound."""
    places = (Path(__file__).parent.parent / "Procfile", Path(sys.prefix) / "share" / "synthq" / "Procfile")
    for place in places:
        if place.is_file():
            return place
    raise NotFound(
        f"no Procfile at {' or '.join(map(str, places))}; `synthq worker` and `synthq serve` start one process each without it"
    )


def read(path: Path) -> list[Role]:
    """Every role, in the file's order. Raises InvalidInput for a line that is none."""
    roles: list[Role] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if match is None:
            raise InvalidInput(f"{path}:{number}: {line.strip()!r} is no process; a line is `name: command`")
        name, words = match["name"], shlex.split(match["command"])
        if any(role.name == name for role in roles):
            raise InvalidInput(f"{path}:{number}: {name!r} is listed twice; give each process a name of its own")
        roles.append(Role(name=name, argv=tuple(sys.executable if word == "python" else word for word in words)))
    return roles


def exists(module: str) -> bool:
    """Whether synthq has this module. Looks for its file and imports nothing; modules of other packages count as there."""
    root = Path(__file__).parent.parent
    if not (root / module.partition(".")[0] / "__init__.py").is_file():
        return True
    place = root.joinpath(*module.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
