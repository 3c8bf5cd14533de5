"""Where a model is: a folder on this machine, or a model on the Hugging Face hub, which is fetched. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import httpx
from huggingface_hub import constants, snapshot_download
from huggingface_hub import errors as hub

from app import model_folder, weights
from app.errors import BadModel, Unavailable
from app.specs.engine import HUB_ID

_PARTS: Final = ["*.json", "*.jinja", "*.txt", "*.safetensors"]
"""What is fetched of a model on the hub; weights in other formats stay there."""


def find(ref: str) -> Path:
    """The folder that a ref names; what is on the hub is fetched first. Raises BadModel and Unavailable."""
    path = Path(ref).expanduser()
    if path.is_absolute() or path.is_dir():
        return path.absolute()
    if not HUB_ID.fullmatch(ref):
        raise BadModel(f"{ref!r} is no model: it is no folder that is there, and no hub id such as Qwen/Qwen3-VL-4B-Instruct")
    config = _fetch(ref, ["config.json", "adapter_config.json"]) / model_folder.CONFIG
    if not config.is_file():
        raise BadModel(f"{ref} is no whole model: it has no {model_folder.CONFIG} on the hub")
    model_folder.architecture_of(Path(ref), weights.read_json(config))  # before its weights are fetched
    return _fetch(ref, _PARTS)


def _fetch(ref: str, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(ref, allow_patterns=patterns))
    except hub.GatedRepoError:
        raise BadModel(f"{ref} is gated: accept its terms on the hub, and set HF_TOKEN to a token of that account") from None
    except hub.RepositoryNotFoundError:
        hint = "its token may not read it" if os.environ.get("HF_TOKEN") else "or it is private; HF_TOKEN opens those"
        raise BadModel(f"there is no {ref} on the hub, {hint}") from None
    except hub.HFValidationError as error:
        raise BadModel(f"{ref} is no hub id: {error}") from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, httpx.HTTPError) as error:
        mute = f"the hub does not answer ({type(error.__cause__ or error).__name__})"
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else mute
        raise Unavailable(f"{ref} is not in the hub's cache on this machine, and {why}; give a folder, or try again") from error
