"""vLLM, in an environment of its own: its pins do not fit beside synthq's. ``make vllm-env`` makes one."""

from __future__ import annotations

import json
import logging
import os
from itertools import chain
from pathlib import Path
from typing import Any, Final

from app import engines, model_folder, weights
from app.errors import BadModel, NotHere
from app.settings import get_settings
from app.specs.engine import VllmTable
from workers.inference.engines.base import Options

log = logging.getLogger("synthq.inference")

SERVER: Final = "vllm.entrypoints.launchers.api_server.entry"
"""What ``vllm serve`` runs. The command itself looks for a distribution named vllm, which the CPU's build is not."""
RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that --max-lora-rank takes."""
GIB: Final = 1024**3
CPU_SHARE: Final = 0.25
"""Most of a machine's memory for keys and values, where there is no GPU."""
CPU_LEAST: Final = GIB // 4
KV_ROOM: Final = "VLLM_CPU_KVCACHE_SPACE"
"""vLLM's own variable, whole GiB. Who sets it has the say."""


class Vllm:
    """Serves a model with vLLM, on GPUs or on the CPU."""

    name = engines.VLLM

    def command(self, base: str, options: Options, *, host: str, port: int) -> list[str]:
        """As ``Engine.command``. Raises NotHere without an environment of vLLM."""
        python = engines.vllm_python()
        if python is None:
            raise NotHere(f"engine {self.name} cannot be started here: {engines.why_not(self.name)}")
        table, facts, gpus = VllmTable.model_validate(options), _facts(base), engines.gpus()
        flags: dict[str, Any] = {
            "model": base,
            "served-model-name": base,
            "host": host,
            "port": port,
            "max-model-len": min(table.max_model_len, facts.get("max_length", table.max_model_len)),
            "max-num-seqs": table.max_num_seqs,
            "limit-mm-per-prompt": json.dumps(table.limit_mm_per_prompt.model_dump()),  # without video: 0 it keeps room for one
            "logprobs-mode": "processed_logprobs",  # of the distribution that is drawn from: temperature and logit_bias are in it
            "chat-template-content-format": "openai",  # where it takes it for another, pictures go before all text
            "generation-config": "vllm",  # else the model's own defaults of top_p and the like come in unasked
            "max-lora-rank": _rank(table.max_lora_rank),
            "max-loras": table.max_loras,
            "max-cpu-loras": 2 * table.max_loras,  # those that go out stay at hand while episodes finish on them
            "dtype": "float32" if table.dtype == "auto" and not gpus else table.dtype,
        }
        if gpus:
            flags["tensor-parallel-size"] = min(table.tensor_parallel_size, gpus)
            flags["gpu-memory-utilization"] = table.gpu_memory_utilization
        elif KV_ROOM not in os.environ:
            flags["kv-cache-memory-bytes"] = _kv_bytes(facts, table)
        if table.tensor_parallel_size > max(1, gpus):
            log.warning(
                "tensor_parallel_size = %d, and there are %d GPUs: as many as there are", table.tensor_parallel_size, gpus
            )
        eager = not gpus if table.enforce_eager is None else table.enforce_eager
        switches = [
            "--enable-lora",
            "--enable-prefix-caching" if table.enable_prefix_caching else "--no-enable-prefix-caching",
            "--enforce-eager" if eager else "--no-enforce-eager",
            "--disable-uvicorn-access-log",
            "--enable-per-request-metrics",  # where the time of a request went
        ]
        valued = chain.from_iterable((f"--{flag}", str(value)) for flag, value in flags.items())
        return [str(python), "-m", SERVER, *switches, *valued]

    def environment(self, base: str, options: Options) -> dict[str, str]:
        """As ``Engine.environment``: adapters come and go, nothing is reported to anybody, the key is on no command line."""
        variables = {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONSAFEPATH": "1",  # the folder that synthq was started in holds packages of other names
            "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning",
        }
        if key := get_settings().engine_key:
            variables["VLLM_API_KEY"] = key
        if base.startswith("/"):
            variables["HF_HUB_OFFLINE"] = "1"
        return variables


def _rank(wanted: int) -> int:
    """The least that vLLM takes and that holds adapters of this rank, which is 512 at the most."""
    return next(rank for rank in RANKS if rank >= wanted)


def _facts(base: str) -> dict[str, Any]:
    """What a folder's config says of its language model; nothing for a hub id. Raises BadModel for what is no model."""
    if not base.startswith("/"):
        return {}
    folder = model_folder.read(Path(base))
    if folder.kind != "base":
        raise BadModel(f"{base} is an adapter; an engine serves a whole model, and adapters on it")
    config = weights.read_json(folder.path / model_folder.CONFIG)
    return config.get("text_config", config) | {"max_length": folder.max_length}


def _kv_bytes(facts: dict[str, Any], table: VllmTable) -> int:
    """Room for keys and values on the CPU: enough for every prompt at its longest, within a share of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = int(memory * CPU_SHARE)
    try:
        heads = facts.get("num_key_value_heads", facts["num_attention_heads"])
        head = facts.get("head_dim") or facts["hidden_size"] // facts["num_attention_heads"]
        a_token = 2 * facts["num_hidden_layers"] * heads * head * 4
    except KeyError:
        return most
    return max(CPU_LEAST, min(a_token * table.max_model_len * table.max_num_seqs, most))
