"""Losses: gradients held to plain policy gradient and to hand-computed numbers; bounds, masks, and estimates of distance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="losses need the extra 'model'")

from app.errors import InvalidInput, UnknownName  # noqa: E402
from workers.trainer.learner.outs import PassOut, Tally  # noqa: E402
from workers.trainer.objective.losses import Objective, Options, means  # noqa: E402
from workers.trainer.objective.ratios import k1, k3, surrogate  # noqa: E402
from workers.trainer.samples import Sample  # noqa: E402

Loss = tuple[float, list[float], dict[str, float]]


def sample(key: str, sampled: list[float], advantage: float, *, weight: float = 1.0) -> Sample:
    """A reply of as many tokens as it has log-probabilities."""
    count = len(sampled)
    return Sample(
        key=key,
        ids=tuple(range(1 + count)),
        targets=tuple(range(1, 1 + count)),
        weight=weight,
        logprobs=np.array(sampled, np.float32),
        advantages=np.full(count, advantage, np.float32),
    )


def run(objective: Objective, samples: list[Sample], now: list[float], base: list[float] | None = None) -> Loss:
    """Loss, gradient by log-probability, figures."""
    logprobs = torch.tensor(now, requires_grad=True)
    out = PassOut(
        samples=tuple(samples),
        places=tuple(range(len(samples))),
        logprobs=logprobs,
        entropy=torch.full((len(now),), 0.5),
        likeliest=torch.zeros(len(now), dtype=torch.bool),
        sample=torch.tensor([place for place, each in enumerate(samples) for _ in each.targets]),
        base_logprobs=None if base is None else torch.tensor(base),
    )
    loss, figures = objective(out)
    loss.backward()
    assert logprobs.grad is not None
    return float(loss.detach()), logprobs.grad.tolist(), {name: float(value) for name, value in figures.items()}


LOGS = [-1.0, -0.5, -2.0]
TWO = [sample("a", LOGS[:2], 1.5), sample("b", LOGS[2:], -0.5)]


def test_where_nothing_has_changed_the_gradient_is_plain_policy_gradient() -> None:
    loss, gradient, _ = run(Objective("token"), TWO, LOGS)
    assert gradient == pytest.approx([-1.5, -1.5, 0.5])
    assert loss == pytest.approx(-(1.5 + 1.5 - 0.5))


def test_the_sequence_ratio_gives_each_token_its_share() -> None:
    loss, gradient, _ = run(Objective("sequence"), TWO, LOGS)
    assert gradient == pytest.approx([-0.75, -0.75, 0.5])
    assert loss == pytest.approx(-(1.5 - 0.5))


def test_bounds_are_asymmetric_and_hold_only_what_goes_too_far() -> None:
    ratios = [0.7, 0.9, 1.25, 1.4]
    samples = [sample(f"{sign}{i}", [-1.0], sign) for sign in (1.0, -1.0) for i in range(4)]
    now = [-1.0 + float(np.log(ratio)) for _ in range(2) for ratio in ratios]
    loss, gradient, figures = run(Objective("token"), samples, now)
    # gain of +1: 0.7, 0.9, 1.25 and, held, 1.28; of -1: held at -0.8, then -0.9, -1.25, -1.4
    assert loss == pytest.approx(-(0.7 + 0.9 + 1.25 + 1.28) + (0.8 + 0.9 + 1.25 + 1.4), abs=1e-6)
    assert gradient == pytest.approx([-0.7, -0.9, -1.25, 0.0, 0.0, 0.9, 1.25, 1.4], abs=1e-6)
    assert means(figures)["clip_share"] == pytest.approx(2 / 8)
    assert means(figures)["ratio_max"] == pytest.approx(1.4)


def test_one_ratio_clips_a_whole_reply() -> None:
    one = [sample("a", [-1.0, -1.0], 1.0)]
    narrow = Options(clip_low=0.1, clip_high=0.1)
    _, gradient, figures = run(Objective("sequence", narrow), one, [-0.5, -1.1])  # geometric mean exp(0.2)
    assert gradient == [0.0, 0.0]
    assert means(figures)["clip_share"] == 1.0
    _, gradient, _ = run(Objective("sequence", narrow), one, [-0.5, -1.45])  # exp(0.025): each token alone would be clipped
    assert gradient == pytest.approx([-np.exp(0.025) / 2] * 2)


@pytest.mark.parametrize("name", ["token", "sequence"])
@pytest.mark.parametrize(("cap", "weights"), [(2.0, [np.exp(-0.5), 2.0]), (0.0, [1.0, 1.0])])
def test_importance_weights_between_sampler_and_trainer_are_cut_off(name: str, cap: float, weights: list[float]) -> None:
    samples = [sample("a", [-1.0], 1.0), sample("b", [-3.0], 1.0)]
    old = {"a": np.array([-1.5], np.float32), "b": np.array([-1.0], np.float32)}
    wide = Options(cap=cap, mask_low=0.0, mask_high=100.0)
    _, gradient, _ = run(Objective(name, wide, old=old), samples, [-1.5, -1.0])
    assert gradient == pytest.approx([-weight for weight in weights], abs=1e-6)


@pytest.mark.parametrize("old", [None, {"a": np.array([-1.0, -0.5], np.float32), "b": np.array([-1.0], np.float32)}])
def test_a_reply_that_sampler_and_trainer_see_otherwise_counts_for_nothing(old: dict[str, np.ndarray] | None) -> None:
    samples = [sample("a", [-1.0, -0.5], 1.0), sample("b", [-2.0], 1.0)]  # of b, the trainer says e times as likely
    _, gradient, figures = run(Objective("token", old=old), samples, [-1.0, -0.5, -1.0])
    assert gradient == pytest.approx([-1.0, -1.0, 0.0])
    assert means(figures)["masked_share"] == 0.5


def test_the_distance_from_the_base_pulls_back() -> None:
    still = [sample("a", [-1.0], 0.0), sample("b", [-1.0], 0.0)]
    loss, gradient, figures = run(Objective("token", Options(kl_weight=0.1)), still, [-1.0, -1.0], base=[-1.5, -0.5])
    distance = [np.exp(-0.5) - 1 + 0.5, np.exp(0.5) - 1 - 0.5]
    assert loss == pytest.approx(0.1 * sum(distance), abs=1e-6)
    assert gradient == pytest.approx([0.1 * (1 - np.exp(-0.5)), 0.1 * (1 - np.exp(0.5))], abs=1e-6)
    assert means(figures)["kl_base"] == pytest.approx(sum(distance) / 2, abs=1e-6)


def test_a_weight_of_distance_without_a_base_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"kl_weight is 0\.1, and there are no log-probabilities of the base"):
        run(Objective("token", Options(kl_weight=0.1)), TWO, LOGS)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_the_k3_estimate_is_never_negative_and_nothing_for_equals(of: float, to: float) -> None:
    a, b = torch.tensor(of, dtype=torch.float64), torch.tensor(to, dtype=torch.float64)
    assert float(k3(a, b)) >= 0.0
    assert float(k3(a, a)) == 0.0


def test_both_estimates_have_the_distance_as_their_mean() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64), torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    distance = float((p * (p / q).log()).sum())
    assert float((p * k1(p.log(), q.log())).sum()) == pytest.approx(distance)
    assert float((p * k3(p.log(), q.log())).sum()) == pytest.approx(distance)


@pytest.mark.parametrize("name", ["token", "sequence"])
def test_however_an_update_is_cut_it_comes_out_the_same(name: str) -> None:
    rng = np.random.default_rng(0)
    samples = [sample(f"s{i}", rng.uniform(-3, -0.1, n).tolist(), a) for i, (n, a) in enumerate([(3, 1.0), (1, -2.0), (5, 0.5)])]
    now = torch.tensor(np.concatenate([s.logprobs for s in samples]) + rng.normal(0, 0.2, 9), dtype=torch.float32)
    objective = Objective(name)
    whole = run(objective, samples, now.tolist())
    pieces = [run(objective, [s], part.tolist()) for s, part in zip(samples, now.split([3, 1, 5]), strict=True)]
    assert sum(loss for loss, _, _ in pieces) == pytest.approx(whole[0], rel=1e-6)
    assert [g for _, gradient, _ in pieces for g in gradient] == pytest.approx(whole[1], rel=1e-6)
    together = Tally()
    for _, _, figures in pieces:
        together = together.plus(Tally(figures=figures))
    assert means(together.figures) == pytest.approx(means(whole[2]), rel=1e-5)
    assert objective.units(samples) == sum(objective.units([s]) for s in samples)


def test_units_are_tokens_or_replies() -> None:
    assert Objective("token").units(TWO) == 3
    assert Objective("sequence").units(TWO) == 2


def test_a_samples_weight_is_how_much_it_counts() -> None:
    _, gradient, _ = run(Objective("token"), [sample("a", [-1.0], 1.0, weight=0.25)], [-1.0])
    assert gradient == pytest.approx([-0.25])


def test_figures_say_what_happened() -> None:
    _, _, figures = run(Objective("token"), TWO, [-1.1, -0.4, -2.0])
    told = means(figures)
    assert told["entropy"] == pytest.approx(0.5)
    assert told["kl_sampler_k1"] == pytest.approx(0.0, abs=1e-6)
    assert told["kl_sampler_k3"] == pytest.approx((np.exp(-0.1) + np.exp(0.1) - 2) / 3, rel=1e-3)
    assert means({}) == {}


def test_what_is_missing_is_named() -> None:
    bare = Sample(key="ep_1, turn 3", ids=(1, 2), targets=(1,))
    with pytest.raises(InvalidInput, match=r"ep_1, turn 3 has no log-probabilities"):
        run(Objective("token"), [bare], [-1.0])
    with pytest.raises(UnknownName, match="no loss named 'tokens'; did you mean 'token'"):
        Objective("tokens")


def test_a_clip_is_told_only_where_it_takes_the_gradient() -> None:
    gain, clipped = surrogate(torch.tensor([1.5, 1.5, 1.0]), torch.tensor([1.0, -1.0, 0.0]), low=0.2, high=0.2)
    assert gain.tolist() == pytest.approx([1.2, -1.5, 0.0])
    assert clipped.tolist() == [1.0, 0.0, 0.0]
