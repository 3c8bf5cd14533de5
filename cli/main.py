"""The `synthq` command: which verbs there are, and what becomes of an error.

A verb's module is imported when the verb is used, and not for `synthq --help`; so this file imports click and the errors only.
Anything deliberate ends as `Error: sentence` on stderr and the error's own exit code; nobody sees a traceback unless
SYNTHQ_DEBUG=1 asks for it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

from app.errors import SynthqError, did_you_mean

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""What a shell reports for a program that SIGPIPE ended."""

COMMANDS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Jobs": {
        "submit": ("cli.submit:submit", "Queue a job: eval, filter, sft or rl."),
        "eval": ("cli.submit:eval_alias", "Same as `submit eval`."),
        "filter": ("cli.submit:filter_alias", "Same as `submit filter`."),
        "train": ("cli.submit:train", "Same as `submit sft` or `submit rl`, by --type."),
        "status": ("cli.jobs:status", "Show a job: its state, why it waits or failed, its scores."),
        "list": ("cli.jobs:list_jobs", "List jobs, the newest first."),
        "watch": ("cli.follow:watch", "Show a job's progress until it ends."),
        "wait": ("cli.follow:wait", "Wait until jobs have ended; the exit code says how."),
        "logs": ("cli.follow:logs", "Print what a job said, as text."),
        "events": ("cli.follow:events", "Print a job's events with number, level and type."),
        "cancel": ("cli.jobs:cancel", "Stop jobs."),
        "retry": ("cli.jobs:retry", "Queue ended jobs again; only what is missing is done."),
        "rm": ("cli.jobs:remove", "Delete ended jobs with their traces and artifacts."),
    },
    "Results": {
        "artifacts": ("cli.artifacts:artifacts", "List or download the files that a job made."),
        "compare": ("cli.compare:compare", "Put jobs side by side: scores, achievements, and what differs for certain."),
        "data": ("cli.data:data", "Check and show training data."),
        "metrics": ("cli.metrics:metrics", "Show what was measured of a job while it ran."),
        "models": ("cli.models:models", "Make, export, list and show models."),
        "traces": ("cli.traces:traces", "List, show, export, replay, score and import episodes."),
    },
    "Server": {
        "demo": ("cli.demo:demo", "Teach a tiny model to play Crafter from pictures, improve it by its own play, and prove it."),
        "up": ("cli.processes:up", "Start synthq on this machine."),
        "down": ("cli.processes:down", "Stop what `synthq up` started."),
        "worker": ("cli.processes:worker", "Run one worker in the foreground."),
        "db": ("cli.stores:database", "Look after the database: migrate, backup, restore, prune."),
        "fsck": ("cli.stores:fsck", "Check the whole store against itself: frames, turns, traces, artifacts, jobs."),
        "doctor": ("cli.doctor:doctor", "Check this machine and the server, with hints."),
        "key": ("cli.key:key", "Create, list and revoke API keys."),
    },
    "Other": {
        "config": ("cli.config:config", "Show and check specs before they are submitted."),
        "help": ("cli.main:help_pages", "Explain exit-codes, environment or completion."),
    },
}

EXIT_CODES: Final = """\
    0    done; for watch, wait and --watch: the job succeeded
    1    something went wrong
    2    a flag, a spec or a request cannot be right
    3    no such job, trace or artifact
    4    no API key, or one that does not fit
    5    it does not fit the present state, such as cancelling a job that has ended
    6    the server, or something behind it, does not answer
    7    a wait ran out of time
    100  the job failed
    101  the job has not ended
    103  the job was cancelled
    130  Ctrl-C
"""

ENVIRONMENT: Final = """\
    SYNTHQ_URL       address of the server; without it http://127.0.0.1:8484
    SYNTHQ_API_PORT  port of a server on this machine, when SYNTHQ_URL is not set
    SYNTHQ_API_KEY   key for a server that wants one
    SYNTHQ_DEBUG     1 shows a traceback under an error
    NO_COLOR         any value: no colours
"""

COMPLETION: Final = """\
    bash  eval "$(_SYNTHQ_COMPLETE=bash_source synthq)"   in ~/.bashrc
    zsh   eval "$(_SYNTHQ_COMPLETE=zsh_source synthq)"    in ~/.zshrc
    fish  _SYNTHQ_COMPLETE=fish_source synthq | source    in ~/.config/fish/config.fish
"""

PAGES: Final = {"exit-codes": EXIT_CODES, "environment": ENVIRONMENT, "completion": COMPLETION}


@contextmanager
def _quietly() -> Iterator[None]:
    """End without a word when stdout's reader has left, before click makes an exit code of its own out of it."""
    try:
        yield
    except BrokenPipeError:
        raise SystemExit(_reader_gone()) from None


class LateGroup(click.Group):
    """A group that knows its commands by name and one line, and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for section in COMMANDS.values():
            if cmd_name in section:
                module, _, attribute = section[cmd_name][0].partition(":")
                command: click.Command = getattr(importlib.import_module(module), attribute)
                return command
        return None

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _quietly():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _quietly():
            return super().invoke(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in section.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        known = [(name, text) for section in COMMANDS.values() for name, (_, text) in section.items()]
        own = [CompletionItem(name, help=text) for name, text in known if name.startswith(incomplete)]
        return own + click.Command.shell_complete(self, ctx, incomplete)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"synthq {version('synthq')}")
        except PackageNotFoundError:
            raise SynthqError("synthq runs from a folder that is not installed, so it has no version; pip install it") from None
        ctx.exit()


@click.group(
    cls=LateGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="A JOB is an id, the start of one, a name, or @last. `synthq help exit-codes|environment|completion` tells more.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version.")
def synthq() -> None:
    """Train vision-language agents on your own machines: submit jobs, follow them, read what came of them."""


@click.command("help")
@click.argument("topic", required=False, metavar="[TOPIC]")
@click.pass_context
def help_pages(ctx: click.Context, topic: str | None) -> None:
    """Explain exit-codes, environment or completion.

    TOPIC may also be a command. Without one, the help of synthq itself is printed.
    """
    root = ctx.find_root()
    if topic is None:
        click.echo(root.get_help())
    elif topic in PAGES:
        click.echo(PAGES[topic], nl=False)
    elif (command := synthq.get_command(root, topic)) is not None:
        with click.Context(command, info_name=topic, parent=root) as inner:
            click.echo(command.get_help(inner))
    else:
        raise click.UsageError(f"no help on {topic!r}; there is {', '.join(PAGES)}, and every command", ctx)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line. Gives the exit code; prints what went wrong as one sentence."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that cannot show a letter gets ? in its place
            stream.reconfigure(errors="replace")
    try:
        code = synthq.main(args=None if argv is None else list(argv), prog_name="synthq", standalone_mode=False)
        if sys.stdout is not None:  # closed by the caller, as in `synthq list >&-`
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.Abort:
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit as stop:  # shell completion, and LateGroup when stdout's reader has gone
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BrokenPipeError:
        return _reader_gone()
    except Exception as error:  # noqa: BLE001 - the one place where a command's error becomes a sentence
        return _tell(error)


def _reader_gone() -> int:
    """Stdout's reader has left, as in `synthq list | head`: say nothing more, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE


def _tell(error: Exception) -> int:
    if os.environ.get("SYNTHQ_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    if isinstance(error, SynthqError):
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    if isinstance(error, OSError):
        click.echo(f"Error: {error.filename or 'the system'}: {error.strerror or error}", err=True)
        return 1
    click.echo(f"Error: synthq met a fault of its own ({type(error).__name__}: {error}); SYNTHQ_DEBUG=1 shows where", err=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
