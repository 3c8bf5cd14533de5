"""What tests of the learner share: samples with pictures, a learner that is made quickly, and transformers' own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inference.core_kit import picture, prompt
from torch import Tensor, distributed

from app.errors import StepFailed, SynthqError
from workers.model.loading import Loaded
from workers.trainer.learner import Learner, Lora, PassOut, Settings
from workers.trainer.samples import Sample

TOLERANCE = 1e-5
"""Of log-probabilities in float32; 2e-6 is what is measured."""


def learner(base: Path, *, lora: Lora | None = None, **changes: Any) -> Learner:
    """A learner of the model in a folder, on a CPU."""
    return Learner(Settings(base=str(base), device="cpu", lora=lora or Lora(r=4, alpha=8), **{"learning_rate": 1e-2, **changes}))


def sample(loaded: Loaded, seed: int, *, tokens: int = 20, reply: int = 3, pictures: int = 1, **changes: Any) -> Sample:
    """Random text with pictures, and a random reply after it, which is what is learned; the same for the same seed."""
    asked = prompt(loaded, tokens, pictures=[picture(loaded, 10 * seed + i) for i in range(pictures)], seed=seed)
    said = [int(token) for token in np.random.default_rng(1000 + seed).integers(50, 300, reply)]
    begin = len(asked.ids)
    whole = (*asked.ids, *said)
    return Sample(
        **{
            "key": f"sample {seed}",
            "ids": whole,
            "targets": tuple(range(begin, len(whole))),
            "pictures": asked.pictures,
            **changes,
        }
    )


def mixed(loaded: Loaded) -> list[Sample]:
    """Samples of all kinds: none, one and two pictures, short and long, targets that do not stand together, other weights."""
    scattered = sample(loaded, 5, tokens=60, reply=9)
    return [
        sample(loaded, 0, pictures=0),
        sample(loaded, 1, tokens=50, weight=0.5),
        sample(loaded, 2, tokens=44, pictures=2, reply=1),
        sample(loaded, 3, tokens=12, reply=6, weight=2.0),
        sample(loaded, 4),
        Sample(key="scattered", ids=scattered.ids, targets=(3, *scattered.targets[::2]), pictures=scattered.pictures),
    ]


def imitate(out: PassOut) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus the weighted sum of log-probabilities, with figures of both kinds."""
    nll = -out.logprobs * out.per_target([one.weight for one in out.samples])
    return nll.sum(), {"entropy": out.entropy.sum(), "nll_max": nll.detach().max(), "right": out.likeliest.sum()}


def as_transformers(loaded: Loaded, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Inputs of transformers' own forward, with labels, padded on the right."""
    longest = max(len(one.ids) for one in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.int64)
    seen, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, one in enumerate(samples):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        seen[row, : len(one.ids)] = 1
        labels[row, list(one.targets)] = ids[row, list(one.targets)]
    told = {"input_ids": ids, "attention_mask": seen, "labels": labels, "mm_token_type_ids": (ids == loaded.image_id).int()}
    pictures = [each for one in samples for each in one.pictures]
    if pictures:
        told["pixel_values"] = torch.from_numpy(np.concatenate([each.patches for each in pictures]))
        told["image_grid_thw"] = torch.tensor([each.grid for each in pictures])
    return told


def plain_logprobs(model: Any, loaded: Loaded, one: Sample) -> np.ndarray:
    """What transformers' own forward gives for a sample alone."""
    model.model.rope_deltas = None
    with torch.no_grad():
        logits = model(**as_transformers(loaded, [one])).logits[0].float() / one.temperature
    return torch.log_softmax(logits, -1)[[place - 1 for place in one.targets], [one.ids[place] for place in one.targets]].numpy()


def gradients(learner: Learner) -> dict[str, Tensor]:
    """The gradients that are there, by the weight's name."""
    return {name: weight.grad.clone() for name, weight in learner.loaded.model.named_parameters() if weight.grad is not None}


CHOICES: dict[str, dict[str, Any]] = {
    "lora": {"mode": "lora", "lora": Lora(r=4, alpha=8, dropout=0.2), "learning_rate": 1e-2},
    "full": {"mode": "full", "learning_rate": 1e-3},
}


def train_together(base: Path, mode: str, folder: Path) -> dict[str, Any]:
    """Three steps over five passes each, one of them without pictures, and what came of them: as every process tells it."""
    one = learner(base, tokens_per_pass=60, **CHOICES[mode])
    tallies, told = [], []
    for step in range(3):
        samples = [sample(one.loaded, 10 * step + i, tokens=20 + 8 * i, pictures=int(step != 1)) for i in range(5)]
        tally = one.accumulate(samples, imitate, scale=1 / 15)
        tallies.append([tally.loss, tally.samples, tally.tokens, tally.passes, *tally.figures.values()])
        told.append(list(one.step().values()))
    logprobs = [values.tolist() for values in one.logprobs(mixed(one.loaded))]
    one.save(folder / "checkpoint", {"steps": one.steps})
    assert one.restore(folder / "checkpoint") == {"steps": 3}
    try:
        one.save(folder / "checkpoint")
    except SynthqError as error:
        said = str(error).rpartition("checkpoint")[2]
    sha256 = one.export(folder / "exported")
    assert (folder / "exported").is_dir()
    assert len(sha256) == 64
    with pytest.raises(ZeroDivisionError if _is_first() else StepFailed, match="only the first"):
        one.accumulate(mixed(one.loaded), _fails_in_the_first)
    assert not gradients(one)
    return {"steps": one.steps, "tallies": tallies, "told": told, "logprobs": logprobs, "error": said}


def _fails_in_the_first(out: PassOut) -> tuple[Tensor, dict[str, Tensor]]:
    if _is_first():
        raise ZeroDivisionError("only the first")
    return imitate(out)


def _is_first() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0
