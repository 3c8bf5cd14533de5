"""What a TOML file means: strict tables, checked whole, refused with every problem at once.

    load(path)            a TOML file               -> spec
    build(tables)         a parsed mapping or flags -> spec
    parse(kind, resolved) what a program posts      -> spec
    resolved(spec)        the whole spec as JSON, every default written out; sha256(spec) names it

Standard library and pydantic only. To add a kind: a file with its Spec, and a line in KINDS.
"""

from app.specs.base import Spec, Table
from app.specs.eval import EvalSpec, EvalTable, PolicyConfig
from app.specs.filter import FilterSpec, FilterTable
from app.specs.kinds import KINDS, AnySpec, PlayedSpec
from app.specs.load import Loaded, build, load, parse, read
from app.specs.out import resolved, sha256, warnings
from app.specs.render import to_toml
from app.specs.rl import RlSpec
from app.specs.schema import schema
from app.specs.seeds import format_seeds, parse_seeds

__all__ = [
    "KINDS",
    "AnySpec",
    "EvalSpec",
    "EvalTable",
    "FilterSpec",
    "FilterTable",
    "Loaded",
    "PlayedSpec",
    "PolicyConfig",
    "RlSpec",
    "Spec",
    "Table",
    "build",
    "format_seeds",
    "load",
    "parse",
    "parse_seeds",
    "read",
    "resolved",
    "schema",
    "sha256",
    "to_toml",
    "warnings",
]
