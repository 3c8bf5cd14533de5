"""The batched tower gives what the model's own code gives, for every mix of pictures, and the same gradients."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration  # noqa: E402

from workers.model import vision  # noqa: E402
from workers.model.types import Picture  # noqa: E402

Grid = tuple[int, int, int]
TINY: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": 7,
    "spatial_merge_size": 3,
    "temporal_patch_size": 2,
    "out_hidden_size": 48,
    "num_position_embeddings": 49,
    "deepstack_visual_indexes": [0, 2],
}
FULL_WIDTH: dict[str, Any] = {
    **TINY,
    "depth": 2,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "out_hidden_size": 2560,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [0, 1],
}
"""The tower of the 4B model, but for its depth."""


def made(vision_config: dict[str, Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    text = {
        "hidden_size": vision_config["out_hidden_size"],
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]},
    }
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision_config, text_config=text)).eval()
    for name, weight in model.model.visual.named_parameters():
        if weight.ndim == 1:  # biases and norms begin at 0 and 1, and a mistake with them would not show
            torch.nn.init.normal_(weight, mean=float(name.endswith("norm.weight")), std=0.3)
    return model


@pytest.fixture(scope="module")
def tiny() -> Any:
    return made(TINY)


def pictures(model: Any, grids: list[Grid], seed: int = 0) -> list[Picture]:
    sizes = model.config.vision_config
    width = 3 * sizes.temporal_patch_size * sizes.patch_size**2
    random = np.random.default_rng(seed)
    made = [random.standard_normal((t * h * w, width), np.float32) for t, h, w in grids]
    return [Picture(sha256=f"{i:064x}", grid=grids[i], make=partial(made.__getitem__, i)) for i in range(len(grids))]


def theirs(model: Any, given: list[Picture]) -> list[vision.Seen]:
    """What transformers makes of the same pictures."""
    values = torch.from_numpy(np.concatenate([picture.patches for picture in given]))
    told = model.model.get_image_features(values, torch.tensor([picture.grid for picture in given]))
    return [
        vision.Seen(embeds, tuple(level[i] for level in told.deepstack_features)) for i, embeds in enumerate(told.pooler_output)
    ]


def difference(ours: list[vision.Seen], wanted: list[vision.Seen]) -> float:
    """The largest between any two numbers; shapes must be the same."""
    assert len(ours) == len(wanted)
    most = 0.0
    for one, other in zip(ours, wanted, strict=True):
        for a, b in zip((one.embeds, *one.deepstack), (other.embeds, *other.deepstack), strict=True):
            assert a.shape == b.shape
            most = max(most, float((a - b).abs().max()))
    return most


MIXES: dict[str, list[Grid]] = {
    "one": [(1, 9, 9)],
    "32 alike": [(1, 9, 9)] * 32,
    "all different": [(1, 9, 9), (1, 3, 12), (1, 12, 3), (1, 3, 3), (1, 6, 9)],
    "mixed": [(1, 9, 9), (1, 6, 9), (1, 9, 9), (1, 6, 9), (1, 9, 6), (1, 9, 9)],
    "a film": [(3, 6, 6), (1, 6, 6), (2, 6, 6)],
    "larger than the learned grid": [(1, 24, 18)],
}


@pytest.mark.parametrize("mix", MIXES)
def test_pictures_are_seen_as_by_the_models_own_code(tiny, mix):
    given = pictures(tiny, MIXES[mix])
    with torch.no_grad():
        assert difference(vision.embed(tiny, given), theirs(tiny, given)) < 1e-5


def test_at_the_width_of_the_4b_model_they_are_seen_the_same():
    model = made(FULL_WIDTH)
    given = pictures(model, [(1, 8, 8), (1, 4, 8), (1, 8, 8)])
    with torch.no_grad():
        assert difference(vision.embed(model, given), theirs(model, given)) < 1e-5


def test_in_bfloat16_they_are_seen_the_same_to_its_precision():
    model = made(TINY).to(torch.bfloat16)
    given = pictures(model, MIXES["mixed"])
    with torch.no_grad():
        ours, wanted = vision.embed(model, given), theirs(model, given)
    assert ours[0].embeds.dtype == torch.bfloat16
    assert difference(ours, wanted) < 0.05 * max(float(one.embeds.abs().max()) for one in wanted)


def test_a_picture_is_seen_the_same_alone_and_among_others(tiny):
    given = pictures(tiny, MIXES["mixed"])
    with torch.no_grad():
        alone = [vision.embed(tiny, [one])[0] for one in given]
        assert difference(vision.embed(tiny, given), alone) < 1e-5


def test_a_batch_of_many_patches_goes_through_in_parts(tiny, monkeypatch):
    monkeypatch.setattr(vision, "MOST_PATCHES", 100)
    given = pictures(tiny, [(1, 6, 6)] * 7 + [(1, 24, 18)])
    with torch.no_grad():
        assert difference(vision.embed(tiny, given), theirs(tiny, given)) < 1e-5


def test_gradients_reach_every_weight_as_they_do_in_the_models_own_code(tiny):
    given = pictures(tiny, MIXES["mixed"])
    weights = dict(tiny.model.visual.named_parameters())

    def gradients(seen: list[vision.Seen]) -> dict[str, Any]:
        tiny.zero_grad(set_to_none=True)
        loss = sum((part * torch.linspace(-1, 1, part.shape[-1])).sum() for one in seen for part in (one.embeds, *one.deepstack))
        loss.backward()
        return {name: weight.grad.clone() for name, weight in weights.items()}

    ours, wanted = gradients(vision.embed(tiny, given)), gradients(theirs(tiny, given))
    tiny.zero_grad(set_to_none=True)
    assert ours.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max())), name


def test_what_was_kept_while_serving_can_be_trained_with():
    model = made(TINY)
    given = pictures(model, [(1, 9, 9)])
    with torch.inference_mode():
        vision.embed(model, given)
    vision.embed(model, given)[0].embeds.sum().backward()
    assert model.model.visual.pos_embed.weight.grad.abs().sum() > 0


def test_a_change_of_weights_is_seen_at_once():
    model = made(TINY)
    given = pictures(model, [(1, 9, 9)])
    with torch.no_grad():
        vision.embed(model, given)
        for weight in model.model.visual.parameters():
            weight.mul_(1.5)
        assert difference(vision.embed(model, given), theirs(model, given)) < 1e-4


def test_no_pictures_give_nothing(tiny):
    assert vision.embed(tiny, []) == []


def test_a_model_that_is_gone_leaves_nothing_behind():
    model = made(TINY)
    with torch.no_grad():
        vision.embed(model, pictures(model, [(1, 9, 9)]))
    gc.collect()  # those of other tests
    before = len(vision._tables)
    del model
    gc.collect()
    assert len(vision._tables) == before - 1
