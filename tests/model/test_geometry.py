"""What is counted from a config by arithmetic is what transformers' module and peft's adapter have. Nothing takes memory here."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3VLForConditionalGeneration

from app.errors import BadModel
from app.geometry import PUBLISHED, Geometry, geometry_of, read_size
from app.specs.training import LANGUAGE
from workers.model import start
from workers.model.adapters import language_layers
from workers.model.geometry import TINY, config_of

SIZES = {**TINY, **PUBLISHED}


class Words:
    """What a config is made with of a tokenizer."""

    def token_to_id(self, token: str) -> int:
        return 1

    def get_vocab_size(self) -> int:
        return 1234


def read(geometry: Geometry) -> tuple[Any, Geometry]:
    """A config, and the sizes that are read from what it is saved as."""
    config = config_of(geometry, cast(Any, Words()))
    return config, geometry_of(json.loads(json.dumps(config.to_dict(), default=str)), "a test")


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_tensors_are_those_of_the_module(name: str) -> None:
    config, told = read(SIZES[name])
    shapes = start.skeleton(config)
    assert told.parameters == sum(map(math.prod, shapes.values()))
    assert told.tensors == len(shapes)
    assert told.vision_parameters == sum(math.prod(shape) for each, shape in shapes.items() if "visual" in each)
    layers = language_layers(config)
    assert told.linear_parameters == sum(into * out for into, out in layers.values())


@pytest.mark.parametrize("layers", [LANGUAGE, ("q_proj", "down_proj")])
@pytest.mark.parametrize("name", ["3m", "qwen3-vl-4b"])
def test_an_adapter_has_as_many_parameters_as_pefts(name: str, layers: tuple[str, ...]) -> None:
    config, told = read(SIZES[name])
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
        pattern = rf".*language_model.*\.({'|'.join(layers)})"
        adapted: Any = get_peft_model(cast(Any, model), LoraConfig(r=16, target_modules=pattern))
    trained = [weight.numel() for weight in adapted.parameters() if weight.requires_grad]
    assert told.adapter(16, layers) == (sum(trained), len(trained))
    part = sum(trained) // told.layers, len(trained) // told.layers
    assert told.adapter(16, layers, [-1]) == told.adapter(16, layers, [0]) == part


def test_a_config_of_another_form_is_refused_with_the_key() -> None:
    config, _ = read(TINY["1m"])
    whole = json.loads(json.dumps(config.to_dict(), default=str))
    with pytest.raises(BadModel, match="has no vision_config"):
        geometry_of({**whole, "vision_config": None}, "a test")
    with pytest.raises(BadModel, match="num_hidden_layers must be a whole number above 0, not '0'"):
        geometry_of({**whole, "text_config": {**whole["text_config"], "num_hidden_layers": 0}}, "a test")


def test_untied_models_have_an_output_of_their_own() -> None:
    tied = replace(TINY["1m"], vocab=1000)
    assert replace(tied, tied=False).parameters - tied.parameters == 1000 * tied.hidden
    assert replace(tied, tied=False).tensors - tied.tensors == 1


def test_pictures_are_read_at_whole_tokens_between_the_bounds() -> None:
    assert read_size(288, 288, step=32, min_pixels=256**2, max_pixels=4096**2) == (288, 288)
    assert read_size(64, 64, step=32, min_pixels=256**2, max_pixels=4096**2) == (256, 256)
    assert read_size(9000, 3000, step=32, min_pixels=256**2, max_pixels=4096**2) == (7072, 2336)
