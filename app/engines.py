"""Which engines inference workers of this machine can start, and which one they take by themselves. Looks; imports none."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from app.errors import NotHere
from app.settings import get_settings

TRANSFORMERS, VLLM, AUTO = "transformers", "vllm", "auto"
ENGINES: Final = (TRANSFORMERS, VLLM)
MODEL_PACKAGES: Final = ("torch", "transformers", "peft", "safetensors", "tokenizers")
"""What the engine ``transformers`` is made with: the extra ``model``."""
INSTALL: Final = "pip install 'synthq[model]'"


def vllm_python() -> Path | None:
    """The Python of the environment with vLLM: that of ``SYNTHQ_VLLM_PYTHON``, else what ``make vllm-env`` made."""
    given = get_settings().vllm_python
    path = Path(given).expanduser() if given else Path(__file__).parent.parent / ".venv-vllm" / "bin" / "python"
    return path if os.access(path, os.X_OK) and path.is_file() else None


def gpus() -> int:
    """NVIDIA GPUs that processes started here may use."""
    present = len(list(Path("/dev").glob("nvidia[0-9]*"))) if sys.platform == "linux" else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, len([each for each in visible.split(",") if each.strip() not in ("", "-1")]))


def why_not(name: str) -> str | None:
    """Why this machine cannot start an engine, or None."""
    if name == TRANSFORMERS:
        missing = [package for package in MODEL_PACKAGES if find_spec(package) is None]
        return f"{', '.join(missing)} not installed; `{INSTALL}` brings what is missing" if missing else None
    if vllm_python() is not None:
        return None
    given = get_settings().vllm_python
    if given:
        return f"SYNTHQ_VLLM_PYTHON={given} is no program; it takes the path of the Python in an environment with vLLM"
    return "no environment with vLLM; `make vllm-env` makes one, and SYNTHQ_VLLM_PYTHON names the Python of another"


def choose(wanted: str = AUTO) -> str:
    """The engine to start for a job that asks for ``wanted``. Raises NotHere when this machine cannot."""
    own = get_settings().engine
    if AUTO not in (wanted, own) and wanted != own:
        raise NotHere(f"the job asks for engine {wanted}, and this worker starts {own} alone (SYNTHQ_ENGINE={own})")
    name = wanted if wanted != AUTO else own
    if name == AUTO:
        possible = [each for each in (VLLM, TRANSFORMERS) if why_not(each) is None]
        if not possible:
            raise NotHere(f"no engine can be started here: {why_not(TRANSFORMERS)}; {why_not(VLLM)}")
        return VLLM if VLLM in possible and (gpus() or TRANSFORMERS not in possible) else TRANSFORMERS
    if why := why_not(name):
        raise NotHere(f"engine {name} cannot be started here: {why}")
    return name
