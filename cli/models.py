"""The verb `models`: models made and copied on this machine, through `python -m workers...`, and what a server knows of models.

Those of this machine ask no server. They need the extra `model` (torch, transformers, peft); without it they say how to get it.
"""

from __future__ import annotations

from pathlib import Path

import click

from cli import served
from cli.processes import become

DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Of the random weights.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def models() -> None:
    """Make, export, list and show models.

    A model is a folder in Hugging Face's format: a whole Qwen3-VL, or a LoRA adapter for one.
    """


@models.command("init-tiny")
@DIRECTORY
@click.option("--size", type=click.Choice(["1m", "3m"]), default="1m", show_default=True, help="About how many parameters.")
@click.option("--frame-px", type=click.IntRange(1, 4096), default=63, show_default=True, metavar="N", help="Side of its frames.")
@click.option("--patch", type=click.IntRange(1, 64), default=7, show_default=True, metavar="N", help="Side of a patch in pixels.")
@click.option(
    "--merge", type=click.IntRange(1, 64), default=3, show_default=True, metavar="N", help="N x N patches become one image token."
)
@SEED
@JSON
def init_tiny(directory: Path, size: str, frame_px: int, patch: int, merge: int, seed: int, as_json: bool) -> None:
    """Make a tiny Qwen3-VL with random weights in DIR.

    It has one to three million parameters and a tokenizer trained on synthq's own prompts, and runs on any CPU. Frames are
    --frame-px pixels wide and high, a multiple of patch x merge; set env_config.image_size to the same. DIR must be empty or not
    there yet. The same flags give the same bytes.
    """
    shape = ["--size", size, "--frame-px", str(frame_px), "--patch", str(patch), "--merge", str(merge)]
    _make("tiny", directory, seed, as_json, *shape)


@models.command("init-random")
@DIRECTORY
@click.option("--like", required=True, metavar="NAME", help="qwen3-vl-2b, qwen3-vl-4b, qwen3-vl-8b or qwen3-vl-32b.")
@click.option(
    "--layers", type=click.IntRange(1), metavar="N", help="Layers of its language model; without it as many as NAME has."
)
@SEED
@JSON
def init_random(directory: Path, like: str, layers: int | None, seed: int, as_json: bool) -> None:
    """Make a model of a published size with random weights in DIR.

    For measuring a machine without the real weights: it takes the same memory and time, and says noise. It is written in bfloat16
    (9 GB for qwen3-vl-4b). DIR must be empty or not there yet.
    """
    _make("random", directory, seed, as_json, "--like", like, *(["--layers", str(layers)] if layers is not None else []))


def _make(kind: str, directory: Path, seed: int, as_json: bool, *flags: str) -> None:
    become("workers.init_tiny", kind, *flags, "--seed", str(seed), *(["--json"] if as_json else []), "--", str(directory))


@models.command()
@click.argument("ref")
@DIRECTORY
@click.option("--merge", is_flag=True, help="Merge an adapter into its base: DIR is then a whole model.")
@click.option("--base", metavar="REF", help="Merge into this model, not the one that the adapter names.")
@JSON
def export(ref: str, directory: Path, merge: bool, base: str | None, as_json: bool) -> None:
    """Write the model REF to DIR as a folder of its own.

    REF is a folder, a hub id, or the id of an artifact in the store of this machine. DIR must be empty or not there yet, and gets
    a file synthq.json that tells where the model comes from.
    """
    flags = [*(["--merge"] if merge else []), *(["--base", base] if base is not None else []), *(["--json"] if as_json else [])]
    become("workers.model.export", *flags, "--", ref, str(directory))


models.add_command(served.list_models)
models.add_command(served.show_model)
models.add_command(served.list_endpoints)
