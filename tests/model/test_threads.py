"""A process computes a small model in one thread and others in as many as it would, unless the user has said how many."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")

SCRIPT = """
import torch
from workers.model.threads import SMALL, settle
usual = torch.get_num_threads()
settle(SMALL - 1)
small = torch.get_num_threads()
settle(SMALL)
print(small, usual == torch.get_num_threads())
"""


@pytest.mark.parametrize(("said", "told"), [(None, "1 True"), ("2", "2 True")])
def test_a_small_model_takes_one_thread_and_a_larger_one_the_usual_ones(said: str | None, told: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if said is not None:
        env["OMP_NUM_THREADS"] = said
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == told
