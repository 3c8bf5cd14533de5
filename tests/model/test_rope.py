"""Positions of a prompt's tokens are those of the model's own code, and come from the prompt alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.errors import InvalidInput
from workers.model.rope import Grid, positions

IMAGE, START, END = 9, 7, 8


def theirs(ids: list[int], grids: list[Grid], merge: int) -> tuple[np.ndarray, int]:
    """What transformers makes of the same prompt."""
    torch = pytest.importorskip("torch")
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

    model: Any = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=merge)))
    model.get_vision_position_ids = lambda *given, **more: Qwen3VLModel.get_vision_position_ids(model, *given, **more)
    tokens = torch.tensor([ids])
    given, deltas = Qwen3VLModel.get_rope_index(
        model, tokens, (tokens == IMAGE).int(), image_grid_thw=torch.tensor(grids) if grids else None
    )
    return given[:, 0].numpy(), int(deltas[0, 0])


def prompt(random: np.random.Generator, merge: int, pictures: int, *, first: bool = False, last: bool = False) -> Any:
    """Ids and grids: texts with pictures between them, from the very start or to the very end if asked."""
    ids: list[int] = [] if first and pictures else random.integers(20, 99, random.integers(1, 30)).tolist()
    grids: list[Grid] = []
    for i in range(pictures):
        grid = (1, int(random.integers(1, 6)) * merge, int(random.integers(1, 6)) * merge)
        bare = (first and i == 0) or (last and i == pictures - 1)
        image = [IMAGE] * (grid[1] * grid[2] // merge**2)
        ids += image if bare else [START, *image, END]
        grids.append(grid)
        if not (last and i == pictures - 1):
            ids += random.integers(20, 99, random.integers(1, 9)).tolist()
    return ids, grids


def test_positions_are_those_of_the_models_own_code():
    random = np.random.default_rng(0)
    for trial in range(120):
        merge = int(random.integers(1, 4))
        ids, grids = prompt(random, merge, trial % 5, first=trial % 3 == 1, last=trial % 3 == 2)
        told, delta = positions(ids, grids, IMAGE, merge)
        wanted, wanted_delta = theirs(ids, grids, merge)
        assert told.dtype == np.int64
        assert np.array_equal(told, wanted)
        assert delta == wanted_delta


def test_a_picture_of_several_frames_has_positions_in_time():
    ids, grids = [1, *[IMAGE] * 12, 2, 3], [(3, 4, 4)]
    told, delta = positions(ids, grids, IMAGE, 2)
    wanted, wanted_delta = theirs(ids, grids, 2)
    assert np.array_equal(told, wanted)
    assert delta == wanted_delta


def test_without_pictures_positions_count_up():
    told, delta = positions([1, 2, 3], [], IMAGE, 2)
    assert told.tolist() == [[0, 1, 2]] * 3
    assert delta == 0


def test_a_text_after_the_prompt_goes_on_where_the_model_would_put_it():
    """A reply is text: the whole, its tokens read as text, has the prompt's positions and then its length plus the delta."""
    random = np.random.default_rng(3)
    ids, grids = prompt(random, 3, 2)
    reply = [50, 51, 52, 53]
    told, delta = positions(ids, grids, IMAGE, 3)
    whole, _ = theirs(ids + reply, grids, 3)
    after = np.arange(len(ids), len(ids) + len(reply)) + delta
    assert np.array_equal(np.concatenate([told, np.broadcast_to(after, (3, len(reply)))], axis=1), whole)


def test_two_pictures_side_by_side_are_two():
    told, _ = positions([IMAGE] * 8, [(1, 4, 4), (1, 4, 4)], IMAGE, 2)
    assert told[:, :4].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]
    assert (told[:, 4:] == told[:, :4] + 2).all()


@pytest.mark.parametrize(
    ("ids", "grids", "sentence"),
    [
        ([1, IMAGE, IMAGE], [(1, 2, 2)], "holds 2 image tokens, and its 1 pictures have 1"),
        ([1, IMAGE], [], "holds 1 image tokens, and its 0 pictures have 0"),
        ([1, 2], [(1, 2, 2)], "holds 0 image tokens, and its 1 pictures have 1"),
        ([IMAGE, 1, IMAGE], [(1, 4, 2)], "2 image tokens of the picture at token 0 do not stand together"),
    ],
)
def test_image_tokens_that_are_not_those_of_the_pictures_are_refused(ids, grids, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        positions(ids, grids, IMAGE, 2)
