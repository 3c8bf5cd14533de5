"""What the API's own OpenAPI document says about a route: the names that a request may use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request

from app.errors import BadFlag, did_you_mean


def paths(request: Request) -> list[str]:
    """Every path there is, as templates."""
    return list(request.app.openapi()["paths"])


def methods(request: Request) -> list[str]:
    """The methods that the request's path takes."""
    return [method.upper() for method in request.app.openapi()["paths"].get(request.scope["route"].path_format, {})]


def only_known_parameters(request: Request) -> None:
    """Refuse a query parameter that the route does not have. A dependency of every route. Raises BadFlag."""
    if not request.query_params:
        return
    known = [parameter["name"] for parameter in _operation(request).get("parameters", []) if parameter["in"] == "query"]
    for name in request.query_params:
        if name not in known:
            listed = f"it has {', '.join(known)}" if known else "it has none"
            raise BadFlag(f"no query parameter named {name[:80]!r}{did_you_mean(name, known)} ({listed})")


def fields(request: Request, loc: Sequence[str | int]) -> list[str]:
    """Names of the fields at a place in the request's body, such as ``("after", 0)``; none when it holds no fields."""
    content = _operation(request).get("requestBody", {}).get("content", {})
    schema = _resolve(request, content.get("application/json", {}).get("schema", {}))
    for part in loc:
        inner = schema.get("items", {}) if isinstance(part, int) else schema.get("properties", {}).get(part, {})
        schema = _resolve(request, inner)
    return list(schema.get("properties", {}))


def _operation(request: Request) -> dict[str, Any]:
    path = request.app.openapi()["paths"].get(request.scope["route"].path_format, {})
    return dict(path.get(request.method.lower(), {}))


def _resolve(request: Request, schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return dict(request.app.openapi()["components"]["schemas"][name]) if name else schema
