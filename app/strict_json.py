"""JSON as its standard has it: a key stands once in an object, and NaN and Infinity are no numbers."""

from __future__ import annotations

import json
from typing import Any, NoReturn


class NotStrict(ValueError):
    """JSON that Python's parser would take or could not; its text goes on from the name of what holds it: ``holds NaN, ...``."""


def read(text: str | bytes) -> Any:
    """The value of a JSON text. Raises NotStrict, or another ValueError where it is no JSON or a number has too many digits."""
    told = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
    try:
        return _DECODER.decode(told)
    except RecursionError:
        raise NotStrict("is nested too deep to be read") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotStrict(f"gives the key {twice[:60]!r} twice in one object; keep one")
    return value


def _no_number(word: str) -> NoReturn:
    raise NotStrict(f"holds {word}, which is no number of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_once_each, parse_constant=_no_number)
