"""What keys a kind of spec has: its tables and fields, walked by path. For sentences, the reference page and schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo

from app.errors import nearest
from app.specs.base import Path, Table


def table_of(annotation: Any) -> type[Table] | None:
    """The Table in an annotation such as ``X``, ``X | None`` or ``Annotated[X, ...]``, or None."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next((found for arg in get_args(annotation) if (found := table_of(arg)) is not None), None)


def table_at(spec: type[Table], path: Path) -> type[Table] | None:
    """The table at a path, or None when there is no table of ours."""
    here: type[Table] | None = spec
    for part in path:
        field = here.model_fields.get(str(part)) if here is not None else None
        here = table_of(field.annotation) if field is not None else None
    return here


def fields(spec: type[Table], path: Path = ()) -> Iterator[tuple[Path, FieldInfo]]:
    """Every field of a spec with its path; those of a table follow the table."""
    for name, field in spec.model_fields.items():
        yield (*path, name), field
        inner = table_of(field.annotation)
        if inner is not None:
            yield from fields(inner, (*path, name))


def meant(spec: type[Table], path: Path) -> Path | None:
    """The key that an unknown path was probably meant to be: of that name elsewhere, or of a like name, here first."""
    table, name = table_at(spec, path[:-1]), str(path[-1])
    leaves = {str(known[-1]): known for known, _ in reversed(list(fields(spec)))}
    if name in leaves:
        return leaves[name]
    if table is not None and (near := nearest(name, table.model_fields)):
        return (*path[:-1], near)
    near = nearest(name, leaves)
    return leaves[near] if near else None
