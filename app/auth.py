"""Who may call the API.

Where a key is configured (``SYNTHQ_API_KEYS``, or a row that is not revoked) every call needs one. Where none is, only this
machine is answered, and only when the request was meant for it: a web page that a browser on this machine shows must not reach
the API through another name (Host) or from another site (Origin).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select
from sqlmodel import Session, col

from app import db
from app.errors import ApiKeyNotFound, BadFlag, LoopbackOnly, NotAllowed
from app.models import ALPHABET, ApiKey
from app.settings import get_settings

FORM: Final = re.compile(r"sq_([0-9a-z]{8})_[A-Za-z0-9_-]{43}")
NOBODY: Final = hashlib.sha256(b"no key has this hash").hexdigest()
"""Compared with when the id is unknown, so that the time taken tells nothing."""
LOCAL: Final = "local"
"""Who calls a server without keys."""
NO_KEYS: Final = "set SYNTHQ_API_KEYS, or make a key with `synthq key create` on the server's own machine"
WANTED: Final = (
    "this server wants an API key, and the request had none that fits; send `Authorization: Bearer KEY` or `X-API-Key: KEY`"
)

_bearer = HTTPBearer(auto_error=False, description="An API key.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key.")


def authenticate(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    header: Annotated[str | None, Depends(_header)],
) -> str:
    """Id of the key that calls, or ``local`` on a server without keys. Raises NotAllowed, LoopbackOnly."""
    with db.reading() as session:
        if not any_key(session):
            only_this_machine(request, NO_KEYS)
            return LOCAL
        caller = identify(session, bearer.credentials if bearer else header or "")
    if caller is None:
        raise NotAllowed(WANTED)
    return caller


Caller = Annotated[str, Depends(authenticate)]


def any_key(session: Session) -> bool:
    """Whether any key is configured."""
    stored = select(col(ApiKey.id)).where(col(ApiKey.revoked_at).is_(None)).limit(1)
    return bool(_configured()) or session.connection().execute(stored).first() is not None


def identify(session: Session, key: str) -> str | None:
    """Id of a key that is in force, or None."""
    digest = _digest(key)
    configured = None
    for known in _configured():  # all of them, always: the time taken must not tell which one
        if hmac.compare_digest(digest, _digest(known)):
            configured = known
    form = FORM.fullmatch(key)
    row = session.get(ApiKey, form.group(1)) if form else None
    stored = hmac.compare_digest(digest, row.sha256 if row and row.revoked_at is None else NOBODY)
    if row is not None and stored:
        return row.id
    if configured is None:
        return None
    return form.group(1) if form else f"env-{_digest(configured)[:8]}"


def make_key(session: Session, name: str) -> tuple[ApiKey, str]:
    """Store a new key's hash; give the row and the key, which nobody can read again."""
    id = "".join(secrets.choice(ALPHABET) for _ in range(8))
    key = f"sq_{id}_{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip('=')}"
    row = ApiKey(id=id, name=name, sha256=_digest(key), created_at=db.clock(session))
    session.add(row)
    session.flush()
    return row, key


def revoke_key(session: Session, id: str) -> None:
    """End a key. Revoked already: no change. Raises ApiKeyNotFound."""
    row = session.get(ApiKey, id) if re.fullmatch(r"[0-9a-z]{8}", id) else None
    if row is None:
        raise ApiKeyNotFound(id)
    if row.revoked_at is None:
        row.revoked_at = db.clock(session)
        session.add(row)


def stored_keys(session: Session) -> list[ApiKey]:
    """Every key in the store, revoked ones too, oldest first."""
    return list(session.scalars(select(ApiKey).order_by(col(ApiKey.created_at), col(ApiKey.id))))


def _configured() -> list[str]:
    return [key.strip() for key in get_settings().api_keys.split(",") if key.strip()]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether a host, a name or an address, is this machine and nothing else."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def only_this_machine(request: Request, way_out: str) -> None:
    """Let a request to a server without keys through when it comes from this machine and was meant for it.

    ``way_out`` says how the server gets keys. Raises LoopbackOnly.
    """
    if request.client is None or not is_loopback(request.client.host):
        raise LoopbackOnly(f"this server has no API keys and answers its own machine alone; {way_out}")
    host = _host_of(f"//{request.headers.get('host', '')}")
    if not is_loopback(host):
        raise LoopbackOnly(f"this server has no API keys and is to be called by a loopback name, not {host[:80]!r}; {way_out}")
    origin = request.headers.get("origin")
    if origin is not None and not is_loopback(_host_of(origin)):
        raise LoopbackOnly(f"this server has no API keys and takes no calls from pages of {origin[:80]!r}; {way_out}")


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def check_address() -> None:
    """Raises BadFlag when the API is to listen for others and has no key."""
    host = get_settings().api_host
    if is_loopback(host):
        return
    with db.reading() as session:
        if not any_key(session):
            raise BadFlag(
                f"SYNTHQ_API_HOST = {host!r} is open to others and no API key is configured; "
                "set SYNTHQ_API_KEYS, or make a key first with the API on 127.0.0.1"
            )


def check_task_app_address() -> None:
    """Raises BadFlag when the task app is to listen for others and has no key."""
    settings = get_settings()
    if not is_loopback(settings.task_app_host) and not settings.accepted_by_task_app:
        raise BadFlag(
            f"SYNTHQ_TASK_APP_HOST = {settings.task_app_host!r} is open to others and the task app has no key; "
            "set SYNTHQ_TASK_APP_KEYS or ENVIRONMENT_API_KEY"
        )
