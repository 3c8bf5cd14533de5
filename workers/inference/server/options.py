"""The flags of ``python -m workers.inference.server``. What they leave out is as a spec's ``[vllm]`` table has it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from app.errors import BadFlag
from app.settings import get_settings
from app.specs.engine import VllmTable

MIB = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one model is served."""

    model: str
    """A folder or a hub id; also the name that it is served under."""
    host: str
    port: int
    """0: any free one."""
    port_file: Path | None
    """Where the port is written once the model is there."""
    max_model_len: int
    max_num_seqs: int
    max_waiting: int
    """Requests that may wait; any more are refused with 503."""
    max_loras: int
    max_lora_rank: int
    limit_images: int
    dtype: str
    device: str
    prefix_bytes: int
    """Memory for what prompts have in common; 0: nothing is kept."""
    image_cache_bytes: int
    """Memory for pictures, read and seen."""


def parse(argv: Sequence[str]) -> Options:
    """The options that flags say. Raises BadFlag; ``--help`` and flags of another form end the process as argparse does."""
    told = _parser().parse_args(argv)
    try:
        table = VllmTable(
            max_model_len=told.max_model_len,
            max_num_seqs=told.max_num_seqs,
            max_loras=told.max_loras,
            max_lora_rank=told.max_lora_rank,
            dtype=told.dtype,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise BadFlag(f"--{str(first['loc'][0]).replace('_', '-')} {first['input']}: {first['msg'].lower()}") from None
    for name in ("limit_images", "max_waiting", "prefix_mib", "image_cache_mib"):
        if (value := getattr(told, name)) is not None and value < 0:
            raise BadFlag(f"--{name.replace('_', '-')} {value}: must be 0 or more")
    if not 0 <= told.port <= 65535:
        raise BadFlag(f"--port {told.port} is no port; it takes a number from 0 to 65535")
    return Options(
        model=told.model,
        host=told.host,
        port=told.port,
        port_file=told.port_file,
        max_model_len=table.max_model_len,
        max_num_seqs=table.max_num_seqs,
        max_waiting=max(256, 8 * table.max_num_seqs) if told.max_waiting is None else told.max_waiting,
        max_loras=table.max_loras,
        max_lora_rank=table.max_lora_rank,
        limit_images=told.limit_images,
        dtype=table.dtype,
        device=told.device,
        prefix_bytes=0 if told.no_prefix_caching else told.prefix_mib * MIB,
        image_cache_bytes=told.image_cache_mib * MIB,
    )


def _parser() -> argparse.ArgumentParser:
    usual = VllmTable()
    parser = argparse.ArgumentParser(
        prog="python -m workers.inference.server",
        description="Serve a model that sees over OpenAI's chat completions, until SIGINT or SIGTERM.",
        epilog="SYNTHQ_ENGINE_KEY is the key that callers need; without one this machine alone is answered.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="REF", help="folder or hub id of the base; it is served under this name")
    add("--host", default=get_settings().engine_host, help="where to listen; beyond loopback a key is needed (%(default)s)")
    add("--port", type=int, default=0, help="0: any free one (%(default)s)")
    add("--port-file", type=Path, metavar="FILE", help="write the port here once the model is there")
    add(
        "--max-model-len",
        type=int,
        default=usual.max_model_len,
        metavar="N",
        help="most tokens of a prompt and its reply together (%(default)s)",
    )
    add(
        "--max-num-seqs",
        type=int,
        default=usual.max_num_seqs,
        metavar="N",
        help="prompts that are computed at once (%(default)s)",
    )
    add(
        "--max-waiting",
        type=int,
        metavar="N",
        help="requests that may wait for that; more are refused (256 or eight times --max-num-seqs)",
    )
    add("--max-loras", type=int, default=usual.max_loras, metavar="N", help="adapters that are held at once (%(default)s)")
    add("--max-lora-rank", type=int, default=usual.max_lora_rank, metavar="N", help="highest rank of an adapter (%(default)s)")
    add(
        "--limit-images",
        type=int,
        default=usual.limit_mm_per_prompt.image,
        metavar="N",
        help="most pictures in one prompt (%(default)s)",
    )
    add(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default=usual.dtype,
        help="numbers to compute with (%(default)s)",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:0 (%(default)s)")
    add("--no-prefix-caching", action="store_true", help="keep nothing of what prompts have in common")
    add("--prefix-mib", type=int, default=512, metavar="MIB", help="memory for what prompts have in common (%(default)s)")
    add("--image-cache-mib", type=int, default=256, metavar="MIB", help="memory for pictures that may come again (%(default)s)")
    return parser
