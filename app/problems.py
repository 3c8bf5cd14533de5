"""Every error that a client sees: RFC 9457 problem+json with one sentence, a stable code and the request's id."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from app.errors import SpecProblems, SynthqError, did_you_mean
from app.routes import known
from app.schemas import IDEMPOTENCY_KEY, LABEL_KEY, NAME, PLAIN, Problem

log = logging.getLogger("synthq.api")

MEDIA_TYPE: Final = "application/problem+json"
MEANINGS: Final = {
    401: "no API key, or one that does not fit",
    403: "the server has no API keys and answers its own machine alone",
    404: "there is nothing of that name",
    409: "the request does not fit the present state, or a name fits several",
    413: "the body is too long",
    422: "the request cannot be right",
    429: "too many event streams are open",
    501: "this release does not do that",
    503: "the store or the broker does not answer",
}
PATTERNS: Final = {
    NAME: "1 to 80 letters, digits, dots, dashes and underscores, the first a letter or a digit",
    PLAIN: "text without control characters",
    LABEL_KEY: "1 to 63 letters, digits, dots, dashes, underscores and slashes, the first a letter or a digit",
    IDEMPOTENCY_KEY: "letters, digits and signs of ASCII without spaces",
}
"""What the patterns of requests say, in words."""
PHRASES: Final = (
    ("input should be a valid dictionary", "must be an object"),
    ("input should be a valid string", "must be text"),
    ("input should be a valid integer", "must be a whole number"),
    ("input should be a valid boolean", "must be true or false"),
    ("input should be a valid list", "must be a list"),
    ("input should be greater than or equal to", "must be at least"),
    ("input should be less than or equal to", "must be at most"),
    ("input should", "must"),
    ("string should", "must"),
    ("should have", "must have"),
)
"""pydantic's words, and those that our sentences use."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route: those that every route may give, and ``statuses``."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    every = sorted({401, 403, 422, 503, *statuses})
    return {status: {"description": MEANINGS[status], "content": content} for status in every}


class ProblemResponse(Response):
    """A problem. Text that is no valid Unicode is escaped, so that even a broken request gets its answer."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def respond(
    request: Request,
    *,
    status: int,
    code: str,
    detail: str,
    retryable: bool = False,
    errors: Sequence[tuple[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> ProblemResponse:
    """The response that tells a problem. ``errors`` are (key, message)."""
    problem = Problem.model_validate(
        {
            "type": f"/docs/errors#{code}",
            "title": code.replace("_", " "),
            "status": status,
            "detail": _valid(detail),
            "code": code,
            "instance": _valid(request.url.path),
            "request_id": request.scope.get("request_id", ""),
            "retryable": retryable,
            "errors": [{"key": _valid(key), "message": _valid(message)} for key, message in errors] if errors else None,
        }
    )
    return ProblemResponse(problem.model_dump(exclude_none=True), status_code=status, headers=headers)


def _valid(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def add_handlers(app: FastAPI) -> None:
    """Give the app its error handlers."""
    app.add_exception_handler(SynthqError, _deliberate)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for error in (OperationalError, InterfaceError, PoolTimeout):
        app.add_exception_handler(error, _store_unavailable)


def _deliberate(request: Request, error: Exception) -> Response:
    assert isinstance(error, SynthqError)
    errors = [(problem.key, problem.message) for problem in error.problems] if isinstance(error, SpecProblems) else None
    return respond(
        request,
        status=error.status,
        code=error.code,
        detail=str(error),
        retryable=error.retryable,
        errors=errors,
        headers={"WWW-Authenticate": "Bearer"} if error.status == 401 else None,
    )


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [("" if item["type"] == "json_invalid" else _key(item["loc"]), _sentence(request, item)) for item in error.errors()]
    detail = "; ".join(f"{key}: {message}" if key else message for key, message in found)
    return respond(request, status=422, code="invalid_request", detail=detail, errors=found)


def _key(loc: Sequence[str | int]) -> str:
    """Where it is wrong, for the parts that a client wrote; an empty text for the body as a whole."""
    return ".".join(str(part)[:80] for part in loc[1:] if part != "[key]")


def _sentence(request: Request, item: dict[str, Any]) -> str:
    loc, kind, context = item["loc"], item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        names = known.fields(request, loc[1:-1])
        return f"no field has this name{did_you_mean(str(loc[-1]), names)} (known: {', '.join(names)})"
    if kind == "json_invalid":
        return f"the body is no JSON: {_lower(context['error'])} at character {int(loc[-1]) + 1}"
    if loc == ("body",):
        return _no_object(request, item["input"])
    if kind == "missing":
        return "is missing"
    if kind == "string_pattern_mismatch":
        return f"must be {PATTERNS.get(context['pattern'], 'text of another form')}, not {_shown(item['input'])}"
    message = _lower(item["msg"]).partition(", unable")[0].removesuffix(" or object to extract fields from")
    for theirs, ours in PHRASES:
        message = message.replace(theirs, ours)
    return f"{message}, not {_shown(item['input'])}"


def _no_object(request: Request, body: Any) -> str:
    """Why the body as a whole is not what was wanted."""
    said = request.headers.get("content-type", "")
    if body is None and request.headers.get("content-length", "0") == "0":
        return "the body is missing; it is to be a JSON object"
    if isinstance(body, bytes | str) and "json" not in said:
        return (
            f"the body comes as {said[:80] or 'no content type'}; it is to be a JSON object with Content-Type: application/json"
        )
    return f"the body must be a JSON object, not {_shown(body)}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        detail = f"no path {path[:200]!r}{did_you_mean(path, known.paths(request))}"
        return respond(request, status=404, code="no_such_path", detail=detail)
    if error.status_code == 405:
        methods = ", ".join(known.methods(request))
        detail = f"{path[:200]} does not take {request.method[:20]} (it takes {methods})"
        return respond(request, status=405, code="method_not_allowed", detail=detail, headers={"Allow": methods})
    if error.status_code == 400:  # FastAPI's answer to a body that is no JSON for another reason than its grammar
        utf8 = isinstance(error.__cause__, UnicodeDecodeError)
        detail = "the body is no JSON in UTF-8" if utf8 else "the body is nested too deep, or a number in it has too many digits"
        return respond(request, status=422, code="invalid_request", detail=detail)
    return respond(
        request, status=error.status_code, code="http_error", detail=str(error.detail), headers=dict(error.headers or {})
    )


def _store_unavailable(request: Request, error: Exception) -> Response:
    reason = getattr(error, "orig", None) or type(error).__name__
    log.warning("request %s: the store does not answer: %s", request.scope.get("request_id"), reason)
    detail = f"the store does not answer ({str(reason).splitlines()[0]}); try again"
    return respond(request, status=503, code="store_unavailable", detail=detail, retryable=True)


def unexpected(request: Request) -> Response:
    """The response to an error that nobody foresaw. What it was is in the log, under the request's id."""
    detail = f"the API met an error that it did not expect; its log tells more under request {request.scope['request_id']}"
    return respond(request, status=500, code="internal_error", detail=detail)
