"""A learner's log-probabilities are transformers' own and the engine's, whatever they are computed beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from inference.core_kit import engine, picture, prompt, replies  # noqa: E402
from learner_kit import TOLERANCE, as_transformers, imitate, learner, mixed, plain_logprobs, sample  # noqa: E402

from app.errors import InvalidInput  # noqa: E402
from workers.inference.core.request import Sampling  # noqa: E402
from workers.model.loading import load  # noqa: E402
from workers.trainer.learner import Learner  # noqa: E402
from workers.trainer.samples import Sample  # noqa: E402


@pytest.fixture(scope="module")
def fresh(tiny_model: Path) -> Learner:
    """A learner that has taken no step: its adapter changes nothing. No test may step with it."""
    torch.set_num_threads(1)
    return learner(tiny_model, tokens_per_pass=200)


def test_log_probabilities_are_those_of_transformers(fresh: Learner, plain: Any) -> None:
    samples = mixed(plain)
    for one, told in zip(samples, fresh.logprobs(samples), strict=True):
        assert told.dtype == np.float32
        assert told.shape == (len(one.targets),)
        assert np.abs(told - plain_logprobs(plain.model, plain, one)).max() < TOLERANCE


def test_states_are_what_transformers_predicts_the_first_target_from(fresh: Learner, plain: Any) -> None:
    samples = mixed(plain)
    for one, told in zip(samples, fresh.states(samples), strict=True):
        with torch.no_grad():
            given = {name: value for name, value in as_transformers(plain, [one]).items() if name != "labels"}
            wanted = plain.model.model(**given).last_hidden_state[0, one.targets[0] - 1].numpy()
        assert told.dtype == np.float32
        assert np.abs(told - wanted).max() < TOLERANCE * max(1.0, np.abs(wanted).max())
    with pytest.raises(InvalidInput, match="bare has no target"):
        fresh.states([replace(samples[0], key="bare", targets=())])


@pytest.mark.parametrize("layers", [1, 2])
def test_a_target_after_an_image_token_is_scored_right_in_a_model_of_few_layers(tiny_model: Path, layers: int) -> None:
    """Where the last layer is one that is given more of the pictures, and where it is not."""
    few, plain = learner(tiny_model), load(tiny_model, device="cpu")
    for model in (few.loaded.model, plain.model):
        model.model.language_model.layers = model.model.language_model.layers[:layers]
    one = sample(plain, 1)
    seen = [place for place, token in enumerate(one.ids) if token == plain.image_id]
    one = replace(one, targets=(seen[-1] + 1, *one.targets))
    assert np.abs(few.logprobs([one])[0] - plain_logprobs(plain.model, plain, one)).max() < TOLERANCE


@pytest.mark.parametrize("temperature", [0.3, 1.7])
def test_they_are_of_the_distribution_at_the_sample_s_temperature(fresh: Learner, plain: Any, temperature: float) -> None:
    samples = [replace(one, temperature=temperature) for one in mixed(plain)]
    beside = [*samples, sample(plain, 40)]  # one at temperature 1 in the same pass
    for one, told in zip(samples, fresh.logprobs(beside), strict=False):
        assert np.abs(told - plain_logprobs(plain.model, plain, one)).max() < TOLERANCE / temperature


def test_a_reply_that_was_drawn_greedily_is_scored_as_the_engine_does(fresh: Learner, plain: Any) -> None:
    one = sample(plain, 3)
    assert np.array_equal(fresh.logprobs([replace(one, temperature=0.0)])[0], fresh.logprobs([one])[0])


def drawn(core: Any, loaded: Any, model: str | None = None) -> tuple[list[Sample], list[Any]]:
    """Replies at several temperatures, to prompts with up to two pictures, as samples; and what the engine told of each."""
    asks = [
        (prompt(loaded, 20 + 7 * i, pictures=[picture(loaded, 3 * i + j) for j in range(i % 3)], seed=i), temperature)
        for i, temperature in enumerate((1.0, 0.7, 1.3, 0.5, 1.0, 0.0))
    ]
    given = [(asked, Sampling(temperature=t, max_tokens=6, seed=9)) for asked, t in asks]
    said = replies(core, given if model is None else [(*each, model) for each in given])
    samples = [
        Sample(
            key=str(i),
            ids=(*asked.ids, *reply.ids),
            targets=tuple(range(len(asked.ids), len(asked.ids) + len(reply.ids))),
            pictures=asked.pictures,
            temperature=t,
        )
        for i, ((asked, t), reply) in enumerate(zip(asks, said, strict=True))
    ]
    assert sum(len(one.targets) for one in samples) > 20
    return samples, said


def farthest(told: list[Any], said: list[Any]) -> float:
    """How far any log-probability is from what the engine told."""
    return max(float(np.abs(ours - np.array(reply.logprobs)).max()) for ours, reply in zip(told, said, strict=True))


def test_log_probabilities_are_those_that_the_engine_told(fresh: Learner, plain: Any) -> None:
    with engine(plain, max_model_len=512, image_cache_bytes=1 << 20) as core:
        samples, said = drawn(core, plain)
    assert farthest(fresh.logprobs(samples), said) < 2 * TOLERANCE


def test_they_still_are_when_the_engine_plays_what_was_trained(tiny_model: Path, tmp_path: Path) -> None:
    one, served = learner(tiny_model), load(tiny_model, device="cpu")
    for step in range(3):
        one.accumulate([sample(served, 20 + 5 * step + i) for i in range(5)], imitate)
        one.step()
    one.export(tmp_path / "adapter")
    with engine(served, max_model_len=512, max_loras=1, max_lora_rank=8, image_cache_bytes=1 << 20) as core:
        core.load_adapter("trained", str(tmp_path / "adapter"))
        samples, said = drawn(core, served, "trained")
    assert farthest(one.logprobs(samples), said) < 2 * TOLERANCE
    assert farthest(one.logprobs(samples, base=True), said) > 0.1


def test_an_image_token_in_a_reply_is_text(fresh: Learner, plain: Any) -> None:
    asked = sample(plain, 7, tokens=30)
    begin = asked.targets[0]
    ids = (*asked.ids[: begin + 1], plain.image_id, *asked.ids[begin + 1 :])
    one = Sample(key="said", ids=ids, targets=tuple(range(begin, len(ids))), pictures=asked.pictures)
    model = plain.model.model
    before = {name: value[:, :begin] for name, value in as_transformers(plain, [asked]).items() if value.shape[:1] == (1,)}
    with torch.no_grad():
        embeds = model.language_model.embed_tokens(torch.tensor([ids]))
        seen = model.get_image_features(*[torch.from_numpy(one.pictures[0].patches), torch.tensor([one.pictures[0].grid])])
        mask = torch.zeros(1, len(ids), dtype=torch.bool)
        mask[:, :begin] = before["input_ids"] == plain.image_id
        embeds[mask] = torch.cat(list(seen.pooler_output))
        places, delta = model.get_rope_index(
            before["input_ids"], before["mm_token_type_ids"], image_grid_thw=torch.tensor([one.pictures[0].grid])
        )
        rest = torch.arange(begin, len(ids)).expand(3, 1, -1) + int(delta)
        states = model.language_model(
            inputs_embeds=embeds,
            position_ids=torch.cat((places[-3:], rest), dim=-1),
            visual_pos_masks=mask,
            deepstack_visual_embeds=[torch.cat(list(level)) for level in seen.deepstack_features],
        ).last_hidden_state
        logp = torch.log_softmax(plain.model.lm_head(states[0]), -1)
    wanted = logp[[place - 1 for place in one.targets], [ids[place] for place in one.targets]].numpy()
    assert np.abs(fresh.logprobs([one])[0] - wanted).max() < TOLERANCE
    assert np.abs(fresh.states([one])[0] - states[0, begin - 1].numpy()).max() < TOLERANCE


def test_entropy_and_the_likeliest_are_of_the_same_distribution(fresh: Learner, plain: Any) -> None:
    one = sample(plain, 11, reply=5, temperature=0.8)
    plain.model.model.rope_deltas = None
    with torch.no_grad():
        logp = torch.log_softmax(plain.model(**as_transformers(plain, [one])).logits[0, one.targets[0] - 1 : -1] / 0.8, -1)
    first = int(logp[0].argmax())
    told: list[Any] = []
    right = replace(one, ids=(*one.ids[: one.targets[0]], first, *one.ids[one.targets[0] + 1 :]))

    def keep(out: Any) -> Any:
        told.append(out)
        return imitate(out)

    for each in (one, right):
        fresh.accumulate([each], keep)
    fresh._forget()
    assert torch.allclose(told[0].entropy, -(logp.exp() * logp).sum(-1), atol=TOLERANCE)
    assert not told[0].entropy.requires_grad
    assert told[0].likeliest.tolist() == [
        token == one.ids[place] for token, place in zip(logp.argmax(-1), one.targets, strict=True)
    ]
    assert bool(told[1].likeliest[0])


def test_the_same_picture_is_seen_once_and_its_cache_changes_nothing(tiny_model: Path, plain: Any) -> None:
    alike = sample(plain, 1)
    samples = [alike, sample(plain, 2), replace(alike, key="again"), sample(plain, 3, pictures=2)]
    kept, not_kept = learner(tiny_model), learner(tiny_model, picture_cache_bytes=0)
    first = kept.logprobs(samples)
    again = kept.logprobs(samples)
    assert kept._sights.cache.figures()["misses"] == len(kept._sights.cache) == 4
    assert len(not_kept._sights.cache) == 0
    for one, two, three in zip(first, again, not_kept.logprobs(samples), strict=True):
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)


def test_what_it_sees_matters(fresh: Learner, plain: Any) -> None:
    one = sample(plain, 1)
    blind = replace(one, pictures=(picture(plain, -1),))
    assert np.abs(fresh.logprobs([one])[0] - fresh.logprobs([blind])[0]).max() > 1e-3


def test_nothing_and_samples_without_targets_are_scored(fresh: Learner, plain: Any) -> None:
    assert fresh.logprobs([]) == []
    empty = replace(sample(plain, 1), targets=())
    told = fresh.logprobs([empty, sample(plain, 2), empty])
    assert [len(values) for values in told] == [0, 3, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pictures": ()}, "holds 9 image tokens, and its 0 pictures have 0"),
        ({"targets": (0, 1)}, "targets must rise and lie between 1 and"),
        ({"targets": (5, 5)}, "targets must rise"),
        ({"targets": (5, 4000)}, "targets must rise"),
        ({"ids": (5, 10**6)}, "its ids reach from 5 to 1000000"),
        ({"ids": (-1, 5)}, "its ids reach from -1 to 5"),
        ({"ids": ()}, "it has 0 tokens"),
        ({"ids": (5,) * 5000}, "it has 5000 tokens; this model takes 1 to 4096"),
        ({"temperature": -1.0}, "temperature must be 0 or more, not -1.0"),
        ({"temperature": float("nan")}, "temperature must be 0 or more, not nan"),
        ({"advantages": np.zeros(2, np.float32)}, "3 targets and 2 advantages"),
        ({"logprobs": np.zeros(4, np.float32)}, "3 targets and 4 logprobs"),
    ],
)
def test_a_sample_that_cannot_be_right_is_refused_by_its_key(
    fresh: Learner, plain: Any, change: dict[str, Any], said: str
) -> None:
    wrong = replace(sample(plain, 1), key="train.jsonl:12", **change)
    with pytest.raises(InvalidInput, match=r"^train\.jsonl:12: ") as told:
        fresh.logprobs([sample(plain, 2), wrong])
    assert said in str(told.value)
    with pytest.raises(InvalidInput, match=r"^train\.jsonl:12: "):
        fresh.accumulate([sample(plain, 2), wrong], imitate)


def test_image_tokens_that_do_not_stand_together_are_refused(fresh: Learner, plain: Any) -> None:
    one = sample(plain, 1)
    first = one.ids.index(plain.image_id)
    torn = (*one.ids[: first + 3], 77, *one.ids[first + 3 :])
    with pytest.raises(InvalidInput, match=f"^{one.key}: .*do not stand together"):
        fresh.logprobs([replace(one, ids=torn)])
