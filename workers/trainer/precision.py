"""What a training computes in, and what is said where that is not what was asked for. The same for every kind of training."""

from __future__ import annotations

import torch

ON_A_CPU = "it computes in float32: bf16 is slower than that on a CPU"


def dtype_of(bf16: bool | None) -> str:
    """What a learner's settings say for a spec's ``bf16``: on a CPU never bfloat16."""
    if bf16 is None:
        return "auto"
    return "bfloat16" if bf16 and torch.cuda.is_available() else "float32"


def substituted(bf16: bool | None) -> list[str]:
    """What is done in place of what was asked for, as sentences."""
    return [ON_A_CPU] if bf16 and not torch.cuda.is_available() else []
