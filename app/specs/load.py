"""The way in: text or tables -> variables, flags, other spellings -> fields -> a spec, or every problem at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from app.errors import Problem, SpecProblems, UnknownKind
from app.specs import lines, out
from app.specs.base import Path, dotted
from app.specs.draft import Draft, shown
from app.specs.expand import expand
from app.specs.kinds import KINDS, AnySpec, kinds_in, spec_class
from app.specs.overrides import override
from app.specs.render import leaves
from app.specs.sentences import MOST, note
from app.specs.source import parse_toml, read_text, storable


@dataclass(frozen=True, slots=True)
class Loaded:
    """A spec, and the way it came in."""

    spec: AnySpec
    draft: Draft

    def origin(self, path: Path) -> str:
        """Where the value at a path of the resolved spec came from: ``default``, ``FILE:LINE`` or ``--set``."""
        return self.draft.origin(path)

    def origins(self) -> dict[str, str]:
        """The origin of every value of the resolved spec, by dotted key."""
        return {dotted(path): self.origin(path) for path, _ in leaves(out.resolved(self.spec))}


def load(
    path: FilePath, *, kind: str | None = None, overrides: Sequence[str] = (), env: Mapping[str, str] = os.environ
) -> AnySpec:
    """The spec in a TOML file, with ``overrides`` (each ``a.b=value``) on top.

    ``kind`` is what the file must be; None takes it from the file. Raises SpecProblems with every problem, or
    UnknownKind.
    """
    return read(path, kind=kind, overrides=overrides, env=env).spec


def read(
    path: FilePath, *, kind: str | None = None, overrides: Sequence[str] = (), env: Mapping[str, str] = os.environ
) -> Loaded:
    """Like ``load``, and keeps where each value came from."""
    text, file = read_text(path), str(path)
    tables = parse_toml(text, file)
    try:
        where = lines.index(text)
    except RecursionError:  # nested so deep that it is refused below
        where = {}
    _refuse_unstorable(tables, Draft({}, file=file, lines=where))
    return _finish(Draft(tables, file=file, lines=where), kind, overrides, env)


def build(
    tables: Mapping[str, Any],
    *,
    kind: str | None = None,
    overrides: Sequence[str] = (),
    env: Mapping[str, str] = os.environ,
    file: str | None = None,
) -> AnySpec:
    """The spec in tables that are parsed already, or in flags alone. Raises as ``load`` does."""
    _refuse_unstorable(tables, Draft({}, file=file))
    return _finish(Draft(tables, file=file), kind, overrides, env).spec


def parse(kind: str, resolved: Mapping[str, Any]) -> AnySpec:
    """The spec in a JSON object that a program sent: strict, and ``${VAR}`` is plain text. Raises as ``load`` does."""
    spec_class(kind)
    if not isinstance(resolved, Mapping):
        raise SpecProblems([Problem(key="", message=f"a spec is an object of tables, not {shown(resolved)}")])
    _refuse_unstorable(resolved, Draft({}))
    return _finish(Draft(resolved), kind, (), None).spec


def _refuse_unstorable(tables: Mapping[str, Any], draft: Draft) -> None:
    """Raise for what could not be stored, told through the draft: before anything walks the tables, they may be deep."""
    found = list(islice(storable(dict(tables)), MOST))
    for path, message in found:
        draft.problem(path, message)
    if found:
        raise SpecProblems(draft.problems)


def _finish(draft: Draft, kind: str | None, overrides: Sequence[str], env: Mapping[str, str] | None) -> Loaded:
    for flag in overrides:
        override(draft, flag)
    if env is not None:
        expand(draft, env, unread=frozenset().union(*(each.unread for each in KINDS.values())))
    if overrides or env is not None:
        _refuse_unstorable(draft.tables, draft)
    spec = spec_class(_kind(draft, kind))
    for compat in spec.compats:
        draft.apply(compat, own=spec.model_fields)
    made: AnySpec | None = None
    try:
        made = spec.model_validate(draft.tables)
    except ValidationError as error:
        note(error, spec, draft)
    if made is None or draft.problems:
        raise SpecProblems(sorted(dict.fromkeys(draft.problems), key=lambda p: (p.line is None, p.line or 0)))
    return Loaded(made, draft)


def _kind(draft: Draft, wanted: str | None) -> str:
    """The kind that the draft is. Raises when it says none, two, or another than ``wanted``."""
    if wanted is not None:
        spec_class(wanted)
    named = draft.tables.get("kind")
    if named is not None and not isinstance(named, str):
        raise _wrong(draft, f"must be text, one of {', '.join(KINDS)}, not {shown(named)}")
    if named is not None and named not in KINDS:
        raise _wrong(draft, str(UnknownKind(named, KINDS)))
    found = [named] if named is not None else kinds_in(draft.tables)
    if wanted is None:
        if len(found) == 1:
            return found[0]
        if found:
            raise _wrong(draft, f"there are tables for {' and '.join(found)}; make a file of each")
        raise _wrong(draft, f'nothing says what kind of job this is; write kind = "eval", or another of {", ".join(KINDS)}')
    if found and wanted not in found:
        raise _wrong(draft, f"this is a spec for {found[0]}, and {wanted} was asked for")
    return wanted


def _wrong(draft: Draft, message: str) -> SpecProblems:
    draft.problem(("kind",), message)
    return SpecProblems(draft.problems)
