"""What only names requests and replies needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["workers.inference.core", "workers.inference.core.request"])
def test_the_words_of_requests_start_without_torch(module):
    probe = f"import sys, {module}; print(*sorted({{'torch', 'transformers', 'peft'}} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
