"""Gradients are those of transformers' own loss, whatever the passes, and only what trains has any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from learner_kit import as_transformers, gradients, imitate, learner, mixed, sample  # noqa: E402

from app.errors import InvalidInput, StepFailed  # noqa: E402
from workers.model.loading import load  # noqa: E402
from workers.trainer.learner import Lora, forward  # noqa: E402

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
"""Of gradients of a sum over 25 targets, the largest of which are about 10."""


def assert_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, grad in one.items():
        assert torch.allclose(grad, other[name], **CLOSE), f"{name}: {(grad - other[name]).abs().max()}"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_of_every_weight_is_that_of_transformers_own_loss(tiny_model: Path, plain: Any, checkpointing: bool) -> None:
    samples = [replace(one, weight=1.0) for one in mixed(plain)]
    whole = learner(tiny_model, mode="full", gradient_checkpointing=checkpointing)
    tally = whole.accumulate(samples, imitate, scale=1 / 25)
    theirs = load(tiny_model, device="cpu").model.requires_grad_(True)
    told = as_transformers(plain, samples)
    count = int((told["labels"] != -100).sum())
    loss = theirs(**told).loss * count / 25
    loss.backward()
    assert count == tally.targets
    assert tally.loss == pytest.approx(loss.item(), rel=1e-5)
    assert_alike(gradients(whole), {name: weight.grad for name, weight in theirs.named_parameters() if weight.grad is not None})
    assert any("visual.blocks" in name for name in gradients(whole))


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_loss_and_gradient_are_the_same_for_all_passes(tiny_model: Path, plain: Any, mode: Any) -> None:
    samples = mixed(plain)
    told = []
    for tokens in (1, 130, 220, 100_000):
        one = learner(tiny_model, mode=mode, tokens_per_pass=tokens)
        _lift(one)
        tally = one.accumulate(samples, imitate, scale=0.1)
        told.append((tally, gradients(one)))
    passes = [tally.passes for tally, _ in told]
    assert (passes[0], passes[-1]) == (6, 1)
    assert passes == sorted(set(passes), reverse=True)
    for tally, found in told[1:]:
        assert tally.loss == pytest.approx(told[0][0].loss, rel=1e-5)
        assert tally.figures == pytest.approx(told[0][0].figures, rel=1e-5)
        assert (tally.samples, tally.targets, tally.tokens) == (6, told[0][0].targets, told[0][0].tokens)
        assert_alike(found, told[0][1])


def test_gradients_add_up_over_calls(tiny_model: Path, plain: Any) -> None:
    samples = mixed(plain)
    once, twice = learner(tiny_model), learner(tiny_model)
    once.accumulate(samples, imitate)
    twice.accumulate(samples[:2], imitate)
    twice.accumulate(samples[2:], imitate)
    assert_alike(gradients(once), gradients(twice))


def test_checkpointing_and_pieces_of_logits_change_no_gradient(
    tiny_model: Path, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, lora = mixed(plain), Lora(r=4, alpha=8, dropout=0.3)
    told = []
    for checkpointing, logits in ((False, 1 << 27), (True, 1 << 27), (False, 7 * plain.vocab)):
        monkeypatch.setattr(forward, "LOGITS", logits)
        one = learner(tiny_model, lora=lora, gradient_checkpointing=checkpointing)
        _lift(one)
        told.append((one.accumulate(samples, imitate), gradients(one)))
    for tally, found in told[1:]:
        assert tally.loss == pytest.approx(told[0][0].loss, rel=1e-6)
        assert tally.figures == pytest.approx(told[0][0].figures, rel=1e-6)
        assert_alike(found, told[0][1])


def test_an_adapter_alone_is_trained_and_the_base_stays_as_it_is(tiny_model: Path, plain: Any) -> None:
    one, samples = learner(tiny_model), mixed(plain)
    before = {name: weight.clone() for name, weight in one.loaded.model.named_parameters()}
    base = one.logprobs(samples)
    for _ in range(3):
        one.accumulate(samples, imitate)
        assert all("lora_" in name for name in gradients(one))
        one.step()
    changed = {name for name, weight in one.loaded.model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert one.parameters == sum(before[name].numel() for name in changed)
    assert np.abs(np.concatenate(one.logprobs(samples)) - np.concatenate(base)).max() > 0.1
    for now, then in zip(one.logprobs(samples, base=True), base, strict=True):
        assert np.array_equal(now, then)
    assert all(weight.requires_grad == ("lora_" in name) for name, weight in one.loaded.model.named_parameters())


def test_what_the_base_says_reaches_the_loss_in_the_order_of_the_pass(tiny_model: Path, plain: Any) -> None:
    one, samples = learner(tiny_model, tokens_per_pass=150), mixed(plain)
    _lift(one)
    base = one.logprobs(samples, base=True)
    told: dict[int, np.ndarray] = {}

    def keep(out: Any) -> Any:
        ends = np.cumsum([len(each.targets) for each in out.samples])
        assert out.sample.tolist() == [i for i, each in enumerate(out.samples) for _ in each.targets]
        assert [samples[place] for place in out.places] == list(out.samples)
        told.update(zip(out.places, np.split(out.base_logprobs.numpy(), ends[:-1]), strict=True))
        return imitate(out)

    one.accumulate(samples, keep, base_logprobs=base)
    assert all(np.array_equal(told[place], values) for place, values in enumerate(base))


def test_a_model_that_trains_as_a_whole_has_no_base(tiny_model: Path, plain: Any) -> None:
    with pytest.raises(InvalidInput, match="no base beside it"):
        learner(tiny_model, mode="full").logprobs(mixed(plain), base=True)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_what_trains_is_float32_whatever_is_computed_in(tiny_model: Path, plain: Any, mode: Any) -> None:
    half, exact = (learner(tiny_model, mode=mode, dtype=dtype, learning_rate=1e-5) for dtype in ("bfloat16", "float32"))
    samples = mixed(plain)
    apart = np.abs(np.concatenate(half.logprobs(samples)) - np.concatenate(exact.logprobs(samples)))
    assert 1e-4 < apart.max() < 0.2
    trained = {name: weight for name, weight in half.loaded.model.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    before = {name: weight.clone() for name, weight in trained.items()}
    for one in (half, exact):
        _lift(one)
    tallies = [one.accumulate(samples, imitate) for one in (half, exact)]
    assert tallies[0].loss == pytest.approx(tallies[1].loss, rel=0.02)
    half.step()
    assert all(not torch.equal(weight, before[name]) for name, weight in trained.items() if "q_proj" in name)


def test_gradients_that_are_no_numbers_change_nothing(tiny_model: Path, plain: Any) -> None:
    one, samples = learner(tiny_model), mixed(plain)
    one.accumulate(samples, imitate)
    one.step()
    before = {name: weight.clone() for name, weight in one.loaded.model.named_parameters()}
    one.accumulate(samples, lambda out: (imitate(out)[0] * float("nan"), {}))
    with pytest.raises(StepFailed, match="optimizer step 2 is nan"):
        one.step()
    assert one.steps == 1
    assert all(torch.equal(weight, before[name]) for name, weight in one.loaded.model.named_parameters())
    assert not gradients(one)


def test_what_check_raises_ends_a_call_and_leaves_no_gradient(tiny_model: Path, plain: Any) -> None:
    one, other, samples = learner(tiny_model, tokens_per_pass=1), learner(tiny_model, tokens_per_pass=1), mixed(plain)
    calls = iter((None, None, KeyboardInterrupt))

    def check() -> None:
        if raised := next(calls, None):
            raise raised

    one.check = check
    with pytest.raises(KeyboardInterrupt):
        one.accumulate(samples, imitate)
    assert not gradients(one)
    for each in (one, other):
        each.accumulate(samples, imitate)
        each.step()
    for name, weight in one.loaded.model.named_parameters():
        assert torch.equal(weight, other.loaded.model.get_parameter(name))


def test_a_loss_that_masks_everything_leaves_the_weights(tiny_model: Path, plain: Any) -> None:
    one = learner(tiny_model)
    before = {name: weight.clone() for name, weight in one.loaded.model.named_parameters()}
    tally = one.accumulate([sample(plain, 1)], lambda out: (torch.zeros(()), {}))
    assert tally.loss == 0
    assert one.step()["grad_norm"] == 0
    assert all(torch.equal(weight, before[name]) for name, weight in one.loaded.model.named_parameters())


def _lift(one: Any) -> None:
    """Have an adapter say something: a fresh one's B is 0, and so are the gradients of its A."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in one.loaded.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05, generator=random)
