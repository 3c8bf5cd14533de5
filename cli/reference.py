"""The page docs/cli.md, made from the commands: ``python -m cli.reference > docs/cli.md``. A test holds the two equal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import click

from cli.main import COMPLETION, ENVIRONMENT, EXIT_CODES, synthq

WIDTH = 100
"""Columns of the help texts on the page."""

INTRODUCTION = """\
# The command line

Made by `python -m cli.reference` from the commands' own help; do not edit it by hand.

`synthq` talks to a server over HTTP. Data goes to stdout and messages go to stderr, so that a script can read the one and a
person the other; `--json` prints one object with `schema_version`, and where events are streamed one object a line. A JOB is an
id, the start of one, a name (the newest job that has it), or `@last`.
"""


def commands(group: click.Group, parents: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group with the words that call it, each group before its own commands."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None, f"{name} is listed and not there"
            yield (*parents, name), command
            if isinstance(command, click.Group):
                yield from commands(command, (*parents, name))


def help_of(words: tuple[str, ...], command: click.Command) -> str:
    """What `--help` prints for a command, in lines of ``WIDTH``."""
    root = click.Context(synthq, info_name="synthq", help_option_names=["-h", "--help"])
    context = root
    for word in words[:-1]:
        context = click.Context(synthq, info_name=word, parent=context)
    with click.Context(command, info_name=words[-1], parent=context, terminal_width=WIDTH, max_content_width=WIDTH) as made:
        return command.get_help(made)


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, text in (("Exit codes", EXIT_CODES), ("Environment", ENVIRONMENT), ("Shell completion", COMPLETION)):
        parts.append(f"## {title}\n\n{text}")
    for words, command in commands(synthq):
        level = "##" if len(words) == 1 else "###"
        parts.append(f"{level} synthq {' '.join(words)}\n\n```\n{help_of(words, command)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    os.environ["NO_COLOR"] = "1"
    sys.stdout.write(page())
