"""Help: quick, complete, and the same on the page as on the screen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from console import Synthq, program, unused_port

from cli import complete
from cli.main import COMMANDS, EXIT_CODES, PAGES, synthq
from cli.reference import commands, help_of, page

ROOT = Path(__file__).parents[2]
HEAVY = {"pydantic", "httpx", "rich", "sqlalchemy", "celery", "fastapi", "asyncio", "numpy", "cli.submit", "cli.client"}
ALL = list(commands(synthq))


USES = ("import cli.main", "from cli.main import main; main(['--help'])", "from cli.main import main; main(['nothing'])")


@pytest.mark.parametrize("use", USES)
def test_help_imports_nothing_heavy(use: str) -> None:
    probe = f"import sys; {use}; print('heavy:', *sorted({HEAVY} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "heavy:"


def test_help_lists_every_command_and_exits_0() -> None:
    ran = program("--help")
    assert ran.code == 0
    for section in COMMANDS.values():
        for name, (_, line) in section.items():
            assert f"  {name} " in ran.out
            assert line in " ".join(ran.out.split())


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_every_command_has_help_and_every_option_a_sentence(words: tuple[str, ...], command: click.Command) -> None:
    assert (command.help or "").strip().split("\n")[0].endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(words)} {parameter.name} has no help"


def test_the_one_line_of_a_command_is_the_first_of_its_own_help() -> None:
    for section in COMMANDS.values():
        for name, (_, line) in section.items():
            command = synthq.get_command(click.Context(synthq), name)
            assert command is not None
            assert command.get_short_help_str(limit=200) == line


def test_docs_cli_md_is_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == page(), "run: python -m cli.reference > docs/cli.md"


def test_the_page_has_what_the_screen_shows(synthq: Synthq) -> None:
    words, command = next(each for each in ALL if each[0] == ("submit", "eval"))
    shown = " ".join(synthq(*words, "--help").out.split())
    assert " ".join(help_of(words, command).split()) == shown


@pytest.mark.parametrize("topic", sorted(PAGES))
def test_help_topics(synthq: Synthq, topic: str) -> None:
    assert synthq("help", topic).out == PAGES[topic]


def test_help_explains_commands_too_and_refuses_other_topics(synthq: Synthq) -> None:
    assert "--timeout" in synthq("help", "wait").out
    ran = synthq("help", "nothing")
    assert ran.code == 2
    assert "no help on 'nothing'" in ran.err


def test_every_exit_code_of_an_error_is_explained() -> None:
    from app import errors

    known = {int(line.split()[0]) for line in EXIT_CODES.splitlines()}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SynthqError)]
    assert {kind.exit_code for kind in kinds} <= known


def test_the_version_is_the_package_s(synthq: Synthq) -> None:
    from importlib.metadata import version

    assert synthq("--version").out == f"synthq {version('synthq')}\n"


def test_the_shell_completes_commands() -> None:
    ran = program(_SYNTHQ_COMPLETE="bash_complete", COMP_WORDS="synthq ca", COMP_CWORD="1")
    assert ran.code == 0
    assert ran.out.split() == ["plain,cancel"]


def completed(words: str) -> list[str]:
    """What the shell offers for the last of the words."""
    ran = program(_SYNTHQ_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert (ran.code, ran.err) == (0, "")
    return [line.removeprefix("plain,") for line in ran.out.split()]


def test_the_shell_completes_jobs_by_id_and_name(served: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.complete.TIME_S", 30.0)
    job_id = served("eval", "--seeds", "0", "--name", "night-run", "--id-only").out.strip()

    def offered(incomplete: str) -> list[str]:
        return [item.value for item in complete.jobs(click.Context(synthq), click.Argument(["job"]), incomplete)]

    assert offered("") == ["@last", job_id, "night-run"]
    assert offered(job_id[:6]) == [job_id]
    assert offered("night") == ["night-run"]
    assert offered("zzz") == []


def test_the_shell_completes_nothing_of_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHQ_URL", f"http://127.0.0.1:{unused_port()}")
    assert completed("synthq status ") == ["@last"]
    assert "--wide" in completed("synthq status --w")
