"""synthq's own engine: ``workers.inference.server`` in this process's own environment."""

from __future__ import annotations

import sys

from app.engines import TRANSFORMERS, why_not
from app.errors import NotHere
from app.specs.engine import VllmTable
from workers.inference.engines.base import Options
from workers.model.threads import sharing


class Transformers:
    """Serves a model with torch and transformers, on a GPU or on the CPU."""

    name = TRANSFORMERS

    def command(self, base: str, options: Options, *, host: str, port: int) -> list[str]:
        """As ``Engine.command``. Raises NotHere without the packages of the extra ``model``."""
        if missing := why_not(self.name):
            raise NotHere(f"engine {self.name} cannot be started here: {missing}")
        table = VllmTable.model_validate(options)
        values = {
            "model": base,
            "host": host,
            "port": port,
            "max-model-len": table.max_model_len,
            "max-num-seqs": table.max_num_seqs,
            "max-loras": table.max_loras,
            "max-lora-rank": table.max_lora_rank,
            "limit-images": table.limit_mm_per_prompt.image,
            "dtype": table.dtype,
            "device": "auto",
        }
        flags = [word for flag, value in values.items() for word in (f"--{flag}", str(value))]
        if not table.enable_prefix_caching:
            flags.append("--no-prefix-caching")
        return [sys.executable, "-m", "workers.inference.server", *flags]

    def environment(self, base: str, options: Options) -> dict[str, str]:
        """As ``Engine.environment``: a model in a folder asks the hub for nothing."""
        return sharing() | ({"HF_HUB_OFFLINE": "1"} if base.startswith("/") else {})
