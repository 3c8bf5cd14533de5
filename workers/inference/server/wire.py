"""Between bytes and JSON, and what an error looks like on the wire: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn, TypeVar

from pydantic import ValidationError

from app.errors import InvalidInput, Problem, SpecProblems, SynthqError, UnknownName, cut
from app.specs.base import Path, Table, dotted
from app.specs.draft import Draft
from app.specs.sentences import note

MOST_BODY_BYTES: Final = 64 * 1024 * 1024
"""Longest request body that is read."""
TOO_DEEP: Final = "the body is nested too deep to be read"

_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")
"""Where half a surrogate pair may stand. In bytes that are UTF-8 it can only be written out."""


class BadBody(SpecProblems):
    """A body that cannot be right, every problem of it told at once."""

    what = "the body"

    def __str__(self) -> str:
        return "; ".join(map(str, self.problems))


class Gone(SynthqError):
    """The caller went away before the answer was there. Nobody reads this."""

    status = 499

    def __init__(self) -> None:
        super().__init__("the caller went away")


# -- bytes to values -------------------------------------------------------------------------------------------------------


def parse(body: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises InvalidInput when it is none, or holds what is no text."""
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is no JSON in UTF-8 (byte 0x{body[error.start]:02x} at {error.start})") from None
    except RecursionError:
        raise InvalidInput(TOO_DEEP) from None
    except ValueError as error:
        if not body.strip():
            raise InvalidInput("the body is missing; it is to be a JSON object") from None
        raise InvalidInput(f"the body is no JSON: {str(error)[:1].lower()}{str(error)[1:160]}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"the body must be a JSON object, not {cut(json.dumps(value)[:200])}")
    if _HALF.search(body):
        for path, text in texts(value):
            if any("\ud800" <= c <= "\udfff" for c in text):
                raise InvalidInput(f"{dotted(path)[:200]} has half a surrogate pair, which is no character")
    return value


def texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in a tree of values, keys too, and where it stands."""
    waiting: list[tuple[Path, Any]] = [(path, value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, dict):
            waiting += [((*path, "[key]"), key) for key in value] + [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, i), item) for i, item in enumerate(value)]


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"it holds {word}, which is no number")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)

T = TypeVar("T", bound=Table)


def checked(form: type[T], value: Mapping[str, Any]) -> T:
    """An object as one form of body. Raises BadBody with every problem of it."""
    try:
        return form.model_validate(value)
    except ValidationError as error:
        raise BadBody(_problems(error, form, value)) from None


def _problems(error: ValidationError, form: type[Table], value: Mapping[str, Any]) -> list[Problem]:
    try:
        draft = Draft(value)
        note(error, form, draft)  # type: ignore[arg-type]
    except RecursionError:
        return [Problem(key="", message=TOO_DEEP)]
    return draft.problems


# -- values to bytes -------------------------------------------------------------------------------------------------------

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def encode(value: Any) -> bytes:
    """A value as JSON. Half a surrogate pair, which is no UTF-8, is written out."""
    text = _ENCODER.encode(value)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")


KINDS: Final = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    503: "ServiceUnavailableError",
}


def status_of(error: Exception) -> int:
    """The HTTP status of an error: what cannot be right is 400 here, as OpenAI and vLLM have it."""
    if isinstance(error, UnknownName):
        return 404
    if isinstance(error, SynthqError):
        return 400 if error.status == 422 else error.status
    return 500


def problem(error: Exception) -> dict[str, Any]:
    """The body that tells an error. What was not foreseen is told as that alone; the log has the rest."""
    status = status_of(error)
    message = (
        str(error) if isinstance(error, SynthqError) else "the engine met an error that it did not expect; its log tells more"
    )
    param = error.problems[0].key or None if isinstance(error, SpecProblems) else None
    return told(status, message, param)


def told(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": message, "type": KINDS.get(status, "InternalServerError"), "param": param, "code": status}}
