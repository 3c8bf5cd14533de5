"""Episodes are known by their play alone: a policy's notes beside a reply leave the hash"""

import hashlib
import json
import zlib

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_PLAIN = ("frame", "system", "messages", "reply", "outcome", "actions", "dropped", "rewards", "unlocked")
_FLAGS = ("terminated", "truncated")
_TOKENS = ("prompt_ids", "output_ids", "logprobs")
_JSON = {"messages", "reply", "actions", "dropped", "rewards", "unlocked", *_TOKENS}


def upgrade() -> None:
    _hash_anew(without_notes=True)


def downgrade() -> None:
    _hash_anew(without_notes=False)


def _hash_anew(*, without_notes: bool) -> None:
    """Work out every episode's hash again, and the one that the snapshot of a running episode goes on from."""
    connection = op.get_bind()
    text = "CAST({} AS TEXT)" if connection.dialect.name == "postgresql" else "{}"
    columns = ", ".join(text.format(name) if name in _JSON else name for name in (*_PLAIN, *_FLAGS, *_TOKENS))
    turns = sa.text(f'SELECT {columns} FROM turn WHERE episode_id = :id ORDER BY "index"')
    for id, snapshot in connection.execute(sa.text("SELECT id, snapshot FROM episode WHERE sha256 IS NOT NULL")).all():
        chain = ""
        for row in connection.execute(turns, {"id": id}):
            chain = _chained(chain, row, without_notes=without_notes)
        values = {"id": id, "sha256": chain, "snapshot": _moved(snapshot, chain)}
        connection.execute(sa.text("UPDATE episode SET sha256 = :sha256, snapshot = :snapshot WHERE id = :id"), values)


def _chained(chain: str, row: sa.Row, *, without_notes: bool) -> str:
    plain, flags, tokens = row[: len(_PLAIN)], row[len(_PLAIN) : -len(_TOKENS)], row[-len(_TOKENS) :]
    texts = [chain, *map(str, plain), *(str(bool(flag)) for flag in flags), *map(str, tokens)]
    if without_notes:
        at = 1 + _PLAIN.index("reply")
        texts[at] = texts[at].partition(',"notes":')[0]
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()


def _moved(snapshot: bytes | None, chain: str) -> bytes | None:
    if snapshot is None:
        return None
    value = json.loads(zlib.decompress(snapshot))
    return zlib.compress(json.dumps({**value, "chain": chain}).encode())
