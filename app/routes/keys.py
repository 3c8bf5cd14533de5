"""API keys. The first one can be made on the server's own machine without a key; it ends that."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from app import db
from app.auth import make_key, revoke_key, stored_keys
from app.problems import problems
from app.schemas import KeyIn, KeyList, KeyMade, KeyOut

router = APIRouter(tags=["keys"])


@router.post("/v1/keys", status_code=201, response_model=KeyMade, responses=problems(413))
def create_key(body: KeyIn, response: Response) -> Any:
    """Make a key. It is shown in this answer and never again."""
    with db.writing() as session:
        row, key = make_key(session, body.name)
    response.headers["Cache-Control"] = "no-store"
    return KeyMade(id=row.id, name=row.name, created_at=row.created_at, revoked_at=row.revoked_at, key=key)


@router.get("/v1/keys", response_model=KeyList, responses=problems())
def list_keys() -> Any:
    """The keys in the store, without the keys; those of SYNTHQ_API_KEYS are not among them."""
    with db.reading() as session:
        return KeyList(data=[KeyOut.model_validate(row) for row in stored_keys(session)])


@router.delete("/v1/keys/{id}", status_code=204, response_class=Response, responses=problems(404))
def delete_key(id: str) -> None:
    """Revoke a key. Revoked already: no change."""
    with db.writing() as session:
        revoke_key(session, id)
