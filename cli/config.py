"""The verbs that read specs and start nothing: `config check`, `config show`, `config schema`. No server is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from app.specs import AnySpec, Loaded

_SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Another value for a key; may be repeated.")
_KIND = click.option("--kind", metavar="KIND", help="The kind that the file must be; without it the file says.")


@click.group()
def config() -> None:
    """Show and check specs before they are submitted."""


@config.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@_KIND
@_SET
@click.pass_context
def check(ctx: click.Context, files: tuple[Path, ...], kind: str | None, overrides: tuple[str, ...]) -> None:
    """Check spec files. Every problem goes to stderr, with its line; the exit code is 2 when there is any."""
    from app.errors import InvalidInput, SpecProblems
    from app.specs import load

    failed = False
    for file in files:
        try:
            _passed(file, load(file, kind=kind, overrides=overrides))
        except InvalidInput as error:
            failed = True
            click.echo(f"Error: {error}" if isinstance(error, SpecProblems) else f"Error: {file}: {error}", err=True)
    if failed:
        ctx.exit(InvalidInput.exit_code)


def _passed(file: Path, spec: AnySpec) -> None:
    from app.specs import sha256, warnings

    click.echo(f"✓ {file}: {spec.kind}, {spec.headline()}, sha256 {sha256(spec)[:12]}")
    for caution in warnings(spec):
        click.echo(f"  ! {caution}", err=True)


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@_KIND
@_SET
@click.option("--json", "as_json", is_flag=True, help="Print JSON, the form that the server stores.")
@click.option("--origin", is_flag=True, help="Tell for each value where it came from: FILE:LINE, --set or default.")
def show(file: Path, kind: str | None, overrides: tuple[str, ...], as_json: bool, origin: bool) -> None:
    """Print the whole spec as it is understood, every default written out."""
    from app.specs import read, to_toml

    loaded = read(file, kind=kind, overrides=overrides)
    if as_json:
        click.echo(json.dumps(_as_json(loaded, origin), indent=2, ensure_ascii=False))
    else:
        click.echo(to_toml(loaded.spec, loaded.origin if origin else None), nl=False)


def _as_json(loaded: Loaded, origin: bool) -> object:
    from app.specs import resolved

    values = resolved(loaded.spec)
    return {"spec": values, "origin": loaded.origins()} if origin else values


@config.command()
@click.argument("kind")
def schema(kind: str) -> None:
    """Print the JSON Schema of a kind of spec, for an editor that completes and checks TOML."""
    from app.specs import schema as schema_of

    click.echo(json.dumps(schema_of(kind), indent=2, ensure_ascii=False))
