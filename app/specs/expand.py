"""``${VAR}`` and ``${VAR:-default}`` in the texts of a spec. ``$${`` stands for ``${``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from app.errors import did_you_mean
from app.specs.base import Path
from app.specs.draft import SECRET, Draft, split

_PLACE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


def expand(draft: Draft, env: Mapping[str, str], *, unread: Collection[str] = ()) -> None:
    """Put the values of variables into every text of the draft. What cannot be put in becomes a problem.

    The texts of ``unread`` keys stay as they are written.
    """
    kept = {path: text for path in map(split, unread) if isinstance(text := draft.get(path), str)}
    for path in kept:
        draft.pop(path)
    draft.tables = _walk(draft.tables, (), draft, env)
    for path, text in kept.items():
        draft.get(path[:-1])[path[-1]] = text.replace("$${", "${")


def _walk(value: Any, path: Path, draft: Draft, env: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _walk(item, (*path, key), draft, env) for key, item in value.items()}
    if isinstance(value, list):
        return [_walk(item, (*path, i), draft, env) for i, item in enumerate(value)]
    if isinstance(value, str) and "${" in value:
        return _PLACE.sub(lambda match: _one(match, path, draft, env), value)
    return value


def _one(match: re.Match[str], path: Path, draft: Draft, env: Mapping[str, str]) -> str:
    if match[0] == "$${":
        return "${"
    inside = _NAME.fullmatch(match[1]) if match[0].endswith("}") else None
    if inside is None:
        draft.problem(path, f"{match[0][:60]!r} is no variable; write ${{NAME}} or ${{NAME:-default}}, or $${{ for a plain ${{")
        return ""
    name, default = inside[1], inside[2]
    if SECRET.search(name):
        draft.problem(path, f"${{{name}}} looks like a secret, and a spec is stored with its job; keep it out of specs")
    elif name in env:
        return env[name]
    elif default is not None:
        return default
    else:
        near = did_you_mean(name, env)
        draft.problem(path, f"${{{name}}} is not set; set it, or write ${{{name}:-default}}{near}")
    return ""
