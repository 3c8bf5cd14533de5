"""The verb `key`: API keys of a server."""

from __future__ import annotations

from urllib.parse import quote

import click

from app.errors import BadFlag
from cli import show
from cli.client import Client


@click.group()
def key() -> None:
    """Create, list and revoke API keys.

    Once a server has a key, every request needs one.
    """


@key.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the key as one JSON object.")
def create(name: str, as_json: bool) -> None:
    """Make a key called NAME and print it, this once."""
    with Client() as client:
        made = client.post("/keys", {"name": name})
    if as_json:
        show.out_json(made)
    else:
        show.out(str(made["key"]))
        show.say(f"key {made['id']} is shown this once; keep it, and give it to the command line as SYNTHQ_API_KEY")


@key.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the keys under `data`.")
def list_keys(as_json: bool) -> None:
    """List keys, without what is secret in them."""
    with Client() as client:
        rows = client.rows("/keys")
    if as_json:
        show.out_json({"object": "list", "data": rows})
    elif not rows:
        show.say("no keys in the store; `synthq key create NAME` makes one")
    else:
        cells = [
            [row.get("id"), show.clean(row.get("name")), show.ago(row.get("created_at")), show.ago(row.get("revoked_at"))]
            for row in rows
        ]
        for line in show.table(["id", "name", "created", "revoked"], cells):
            show.out(line)


@key.command()
@click.argument("id")
def revoke(id: str) -> None:
    """End the key with this ID. Requests with it are refused from now on."""
    if not id.strip(". "):
        raise BadFlag("revoke takes the id of a key; `synthq key list` shows them")
    with Client() as client:
        client.delete(f"/keys/{quote(id, safe='')}")
    show.say(f"key {id} is revoked")
