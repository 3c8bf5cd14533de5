"""What tests of the engine's server share: bodies, pictures, adapters, and the real process on a free port."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from app.leash import leashed

SIDE = 63
"""Pixels along a side of a frame of the tiny model: 9 tokens."""


@lru_cache
def png(seed: int = 0, side: int = SIDE) -> bytes:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image(seed: int = 0) -> dict[str, Any]:
    """A picture as a part of a message."""
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png(seed)).decode()}"}}


def asked(text: str = "Reply with 1 action: noop move_left", *, images: int = 1, **more: Any) -> dict[str, Any]:
    """A body as synthq's own workers send it; ``model`` is to be added."""
    parts = [{"type": "text", "text": text}, *(image(n) for n in range(images))]
    return {
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": 4,
        "temperature": 1.0,
        "seed": 7,
        "logprobs": True,
        "top_logprobs": 0,
        "return_token_ids": True,
        "skip_special_tokens": False,
        "stream": False,
        **more,
    }


def endless(tokens: int = 3000, **more: Any) -> dict[str, Any]:
    """A body whose reply takes seconds."""
    return asked(images=0, max_tokens=tokens, ignore_eos=True, logprobs=False, return_token_ids=False, **more)


def write_adapter(model: Path, folder: Path, *, seed: int, rank: int = 4) -> Path:
    """An adapter of the language layers that changes what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3VLForConditionalGeneration

    torch.manual_seed(seed)
    target = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    wrapped = get_peft_model(
        Qwen3VLForConditionalGeneration.from_pretrained(model), LoraConfig(r=rank, lora_alpha=16, target_modules=target)
    )
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    wrapped.save_pretrained(folder)
    return folder


class Serving:
    """The server as a process of its own, which ends with this one."""

    def __init__(self, model: Path, *flags: str, wait: bool = True, **env: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SYNTHQ_") or name == "SYNTHQ_HOME"}
        argv = [sys.executable, "-m", "workers.inference.server", "--model", str(model), *flags]
        self.model, self.key = str(model), env.get("SYNTHQ_ENGINE_KEY", "")
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would stop its writer
        self.process = subprocess.Popen(
            leashed(argv), env={**clean, "OMP_NUM_THREADS": "1", **env}, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        self.ready: dict[str, Any] = {}
        self.http = httpx.Client()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it has loaded its model."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"it never was ready: {self.end()}")
        self.ready = json.loads(line)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self.http = httpx.Client(base_url=self.ready["listening"], headers=headers, timeout=60, trust_env=False)

    def post(self, body: Mapping[str, Any], path: str = "/v1/chat/completions") -> httpx.Response:
        """Ask the base, unless the body names another model."""
        return self.http.post(path, json={"model": self.model, **body})

    def batch(self, *bodies: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Ask many at once; the lines in the order in which they came."""
        return list(self.lines(*bodies))

    def lines(self, *bodies: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """As ``batch``, each line as soon as it is there."""
        whole = {"requests": [{"model": self.model, **body} for body in bodies]}
        with self.http.stream("POST", "/v1/batch", json=whole) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                yield json.loads(line)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a series of ``/metrics``; 0 when there is none."""
        told = ",".join(f'{key}="{value}"' for key, value in labels.items())
        series = f"{name}{{{told}}} " if told else f"{name} "
        found = [line for line in self.http.get("/metrics").text.splitlines() if line.startswith(series)]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it; its exit status and what it said on stderr."""
        self.http.close()
        self.process.send_signal(number)
        try:
            code = self.process.wait(20)
            self._said.seek(0)
            return code, self._said.read()
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._said.close()
