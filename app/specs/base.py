"""What every spec has in common: strict, frozen tables whose fields carry a default, a bound and a sentence.

A Table is one TOML table; a Spec is the whole file. Both refuse unknown keys and values of another type (no "10" for 10, no
true for 1, no NaN). What no single field can say goes in ``checks``, which may name several problems at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

Path = tuple[str | int, ...]
"""Where a value stands in a spec: table and key names, and indexes into lists."""


def dotted(path: Path) -> str:
    """A path as people write it: ``eval.policies.0``; a key that needs quotes gets them."""
    return ".".join(str(part) if _bare(str(part)) else quoted(str(part)) for part in path)


def quoted(text: str) -> str:
    """A text as a basic string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _bare(key: str) -> bool:
    return bool(key) and all(c.isascii() and (c.isalnum() or c in "_-") for c in key)


def listed(value: Any) -> Any:
    """One name stands for a list of one."""
    return [value] if isinstance(value, str) else value


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
HTTP_URL = r"^https?://[^\s/?#@]+([/?#]\S*)?$"
BASE_URL = r"^https?://[^\s/?#@]+(/[^\s?#]*)?$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
PATTERNS = {
    NAME: "1 to 80 letters, digits, dots, dashes and underscores, the first a letter or a digit",
    HTTP_URL: "an address that begins with http:// or https:// and holds no user and no password",
    BASE_URL: "an address that begins with http:// or https:// and holds no user, no password and no ? or #",
    VARIABLE: "the name of an environment variable",
}
"""What a pattern says, in words."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Words = Annotated[
    tuple[Word, ...],
    Field(strict=False, max_length=1000),
    BeforeValidator(listed, json_schema_input_type=Word | list[Word]),
]
"""A list of names; one name alone is accepted."""


@dataclass(frozen=True, slots=True)
class Clash:
    """Values that are each allowed and cannot stand together."""

    key: str
    """The key, inside the table that found it, to name and to point at; a number in it is an index."""
    message: str

    @property
    def path(self) -> Path:
        """``key`` as a path."""
        return tuple(int(part) if part.isdecimal() else part for part in self.key.split("."))


class Clashes(ValueError):
    """What ``checks`` found; travels through pydantic to the sentences."""

    def __init__(self, found: list[Clash]) -> None:
        self.found = tuple(found)
        super().__init__("; ".join(f"{clash.key}: {clash.message}" for clash in found))


class Table(BaseModel):
    """One table of a spec."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    def checks(self) -> Iterator[Clash]:
        """Combinations in this table that cannot be right. A table with such rules overrides this."""
        yield from ()

    @model_validator(mode="after")
    def _no_clashes(self) -> Self:
        if found := list(self.checks()):
            raise Clashes(found)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Compat:
    """How one kind reads files that were written for the project that it follows. Keys are dotted paths."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    """Another spelling of a key, and the key."""
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """A key, and for other spellings of its value the value."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """A key that is known and not taken, and why."""
    settled: Mapping[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict)
    """A key that changes nothing: the values it may have, and what always holds. The resolved spec leaves it out."""
    only_if: tuple[str, str] | None = None
    """A key and the value that it must have, or lack, for this to apply: it is the default when the key is absent."""


class Spec(Table):
    """A whole spec. Each kind of job has a subclass in a file of its own."""

    compats: ClassVar[tuple[Compat, ...]] = ()
    """Other spellings, settled in this order before the fields are checked."""
    unread: ClassVar[frozenset[str]] = frozenset()
    """Keys whose text nobody uses: a variable in it that is not set stays as it is written."""

    kind: str
    """What kind of job this is."""
    schema_version: Literal[1] = 1
    """The version of this language of specs."""
    name: Annotated[str, StringConstraints(pattern=NAME)] | None = None
    """A name for people; it takes no part in the spec's sha256."""

    def headline(self) -> str:
        """How much work the spec asks for, in a few words."""
        raise NotImplementedError

    @classmethod
    def finish_schema(cls, whole: dict[str, Any]) -> None:
        """Add to the JSON Schema what pydantic cannot know."""

    def cautions(self) -> Iterator[str]:
        """What is allowed and looks like a mistake."""
        yield from ()
