"""Steps are AdamW's, at the learning rate that the schedule says, with gradients that are not too long."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from learner_kit import as_transformers, gradients, imitate, learner, sample  # noqa: E402

from app.errors import InvalidInput, SynthqError, UnknownName  # noqa: E402
from workers.model.loading import load  # noqa: E402
from workers.trainer.learner import Lora, Settings  # noqa: E402
from workers.trainer.learner.optimizer import rate  # noqa: E402


def test_three_steps_are_those_of_a_plain_loop_over_transformers(tiny_model: Path, plain: Any) -> None:
    """Whole model, clipped, norms and biases without decay, warm-up: what anybody would write by hand."""
    batches = [[sample(plain, 10 * i + j) for j in range(4)] for i in range(3)]
    whole = learner(
        tiny_model, mode="full", learning_rate=1e-3, weight_decay=0.1, warmup_steps=2, max_grad_norm=0.5, betas=(0.9, 0.95)
    )
    model = load(tiny_model, device="cpu").model.requires_grad_(True)
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    by_hand = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.95)
    )
    for number, batch in enumerate(batches):
        tally = whole.accumulate(batch, imitate, scale=1 / 12)
        told = whole.step()
        for group in by_hand.param_groups:
            group["lr"] = 1e-3 * min(1.0, (number + 1) / 2)
        model.model.rope_deltas = None
        loss = model(**as_transformers(plain, batch)).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        by_hand.step()
        by_hand.zero_grad()
        assert tally.loss == pytest.approx(loss.item(), rel=1e-4)
        assert told["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
        assert told["grad_norm"] > 0.5, "nothing was clipped"
        assert told["learning_rate"] == by_hand.param_groups[0]["lr"]
    for name, weight in whole.loaded.model.named_parameters():
        apart = (weight - model.get_parameter(name)).abs()
        assert apart.mean() < 1e-5, name  # Adam turns the smallest gradients, which are rounding, into whole steps
    assert not gradients(whole)


def test_the_loss_falls(tiny_model: Path, plain: Any) -> None:
    one = learner(tiny_model, lora=Lora(r=8, alpha=16))
    samples = [sample(plain, i) for i in range(6)]
    losses = []
    for _ in range(15):
        losses.append(one.accumulate(samples, imitate, scale=1 / 18).loss)
        one.step()
    assert losses[-1] < losses[0] / 3


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0.25, 0.5, 0.75, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
    ],
)
def test_the_learning_rate_follows_the_schedule(schedule: Any, rates: list[float]) -> None:
    settings = Settings(base="x", learning_rate=2.0, warmup_steps=4, total_steps=8, schedule=schedule)
    assert [rate(settings, step) for step in range(9)] == pytest.approx([2 * share for share in rates])
    assert rate(settings, 100) == pytest.approx(2 * rates[-1])


def test_without_an_end_the_learning_rate_does_not_fall() -> None:
    assert rate(Settings(base="x", schedule="cosine", learning_rate=3.0), 10**6) == 3.0


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tiny_model: Path, plain: Any) -> None:
    def trained(seed: int) -> dict[str, Any]:
        one = learner(tiny_model, seed=seed, lora=Lora(r=4, alpha=8, dropout=0.2))
        torch.manual_seed(int(torch.randint(0, 1000, ()).item()))  # whatever else draws in this process counts for nothing
        for _ in range(2):
            one.accumulate([sample(plain, i) for i in range(4)], imitate)
            one.step()
        return {name: weight for name, weight in one.loaded.model.named_parameters() if "lora_" in name}

    first, again, other = trained(1), trained(1), trained(2)
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert not any(torch.equal(weight, other[name]) for name, weight in first.items())


def test_dropout_draws_in_training_only_and_leaves_the_process_s_own_numbers(tiny_model: Path, plain: Any) -> None:
    one = learner(tiny_model, lora=Lora(r=4, alpha=8, dropout=0.5))
    samples = [sample(plain, i) for i in range(4)]
    one.accumulate(samples, imitate)
    one.step()
    torch.manual_seed(3)
    losses = [one.accumulate(samples, imitate).loss for _ in range(2)]
    drawn = torch.rand(3)
    assert losses[0] != losses[1]
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))
    first, second = one.logprobs(samples), one.logprobs(samples)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay and max_grad_norm must be 0 or more"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"warmup_steps": -1}, "warmup_steps and total_steps"),
        ({"tokens_per_pass": 0}, "tokens_per_pass must be 1 or more"),
        ({"adapter": "/x", "mode": "full"}, "begin from a whole model"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Settings(base="x", **wrong)


@pytest.mark.parametrize("wrong", [{"mode": "lor"}, {"schedule": "cos"}, {"dtype": "float16"}])
def test_unknown_names_in_settings_are_told_with_those_that_are_known(wrong: dict[str, Any]) -> None:
    with pytest.raises(UnknownName, match="known: "):
        Settings(base="x", **wrong)


@pytest.mark.parametrize("wrong", [{"r": 0}, {"alpha": 0.0}, {"dropout": 1.0}])
def test_an_adapter_that_cannot_be_right_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SynthqError, match="must be"):
        Lora(**wrong)
