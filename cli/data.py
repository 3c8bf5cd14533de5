"""The verb `data`: training data looked at on this machine, through `python -m app.dataset`; no server is asked."""

from __future__ import annotations

from pathlib import Path

import click

from cli.processes import become

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def data() -> None:
    """Check and show training data.

    The data is JSONL in OpenAI's chat format, as a filter job writes it. No server is asked.
    """


@data.command()
@click.argument("file", type=FILE)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["synthq", "openai"]),
    default="synthq",
    show_default=True,
    help="Whose rules: OpenAI's documented ones, or those and what training here needs.",
)
@click.option("--max-images", type=click.IntRange(0), metavar="N", help="The most images in one message.")
@click.option(
    "--max-problems", type=click.IntRange(0), default=100, show_default=True, metavar="N", help="Problems that are listed."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(file: Path, format_: str, max_images: int | None, max_problems: int, as_json: bool) -> None:
    """Find what is wrong in FILE.

    Reads every line, decodes every image, and tells each problem with its line and place, then what was counted. Exits 2 when
    there is a problem.
    """
    flags = ["--format", format_, "--max-problems", str(max_problems)]
    flags += ["--max-images", str(max_images)] if max_images is not None else []
    flags += ["--json"] if as_json else []
    become("app.dataset", "check", *flags, "--", str(file))


@data.command()
@click.argument("file", type=FILE)
@click.option("--line", type=click.IntRange(1), required=True, metavar="N", help="Number of the line; the first is 1.")
@click.option("--images", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Write its images there as PNG.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, without the bytes of images.")
def show(file: Path, line: int, images: Path | None, as_json: bool) -> None:
    """Print one line of FILE for people.

    Shows who says what, the sizes of images, the calls, and what is wrong with it; exits 2 when something is.
    """
    flags = ["--line", str(line)]
    flags += ["--images", str(images)] if images is not None else []
    flags += ["--json"] if as_json else []
    become("app.dataset", "show", *flags, "--", str(file))
