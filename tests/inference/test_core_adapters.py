"""Adapters live beside each other: every row of a batch has its own, as peft would compute it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from core_kit import Answers, apart, engine, picture, plain_logits, prompt, replies  # noqa: E402

from app.errors import BadModel, Conflict, UnknownName  # noqa: E402
from workers.inference.core import Core  # noqa: E402
from workers.inference.core.lora import Adapted, Turn  # noqa: E402
from workers.inference.core.request import Sampling  # noqa: E402

TOLERANCE = 1e-4
ALL = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
SOME = r".*language_model.*\.(q|v)_proj"


@pytest.fixture(scope="module")
def wrapped(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Path]]:
    """A model of its own with three adapters by peft, and where they are saved."""
    from transformers import Qwen3VLForConditionalGeneration

    torch.manual_seed(0)
    base = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model, attn_implementation="sdpa").eval()
    configs = {
        "one": peft.LoraConfig(r=4, lora_alpha=16, target_modules=ALL),
        "two": peft.LoraConfig(r=8, lora_alpha=8, use_rslora=True, target_modules=SOME),
        "three": peft.LoraConfig(r=2, lora_alpha=6, target_modules=SOME),
    }
    model = peft.get_peft_model(base, configs["one"], adapter_name="one")
    for name in ("two", "three"):
        model.add_adapter(name, configs[name])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("adapters")
    model.save_pretrained(folder)
    return model, {name: folder / name for name in configs}


@pytest.fixture
def core(loaded: Any) -> Iterator[Core]:
    with engine(loaded, max_loras=2, max_lora_rank=8, prefix_bytes=1 << 22, image_cache_bytes=1 << 20) as running:
        yield running
        for model in running.models():
            if model["parent"] is not None:
                running.unload_adapter(model["id"])


def by_peft(wrapped: tuple[Any, dict[str, Path]], name: str | None) -> Any:
    """Logits of peft's model with this adapter, or none."""
    model = wrapped[0]

    def logits(*args: Any) -> Any:
        if name is None:
            with model.disable_adapter():
                return plain_logits(model, *args)
        model.set_adapter(name)
        return plain_logits(model, *args)

    return logits


def test_two_adapters_and_the_base_in_one_batch_are_what_peft_computes(loaded, core, wrapped):
    base = core.models()[0]["id"]
    for name in ("one", "two"):
        core.load_adapter(name, str(wrapped[1][name]))
    asks, sampling = [], Sampling(max_tokens=8, seed=2, ignore_eos=True)
    for n in range(9):
        asked = prompt(loaded, 20 + 11 * (n // 3), pictures=[picture(loaded, n // 3)], seed=n // 3)
        asks.append((asked, sampling, (base, "one", "two")[n % 3]))
    for again in range(3):  # with reused beginnings the last time
        told = replies(core, asks)
        assert core.figures()["prefix_hits"] == (9 if again == 2 else 0)
        for (asked, _, name), reply in zip(asks, told, strict=True):
            logits = by_peft(wrapped, None if name == base else name)(loaded, asked, reply.ids)
            wanted = torch.log_softmax(logits, dim=-1)[range(8), list(reply.ids)]
            assert (wanted - torch.tensor(reply.logprobs)).abs().max() < TOLERANCE
    assert all(len({reply.logprobs for reply in told[n : n + 3]}) == 3 for n in (0, 3, 6)), "the adapters change nothing"
    assert {reply.version for reply in told} == {model["sha256"] for model in core.models()}


def test_a_batch_of_one_adapter_is_the_same_as_one_among_others(loaded, core, wrapped):
    base = core.models()[0]["id"]
    for name in ("one", "two"):
        core.load_adapter(name, str(wrapped[1][name]))
    sampling = Sampling(max_tokens=6, seed=1, ignore_eos=True)
    asks = [(prompt(loaded, 30 + n, seed=n), sampling, ("one", "two", base)[n % 3]) for n in range(6)]
    mixed = replies(core, asks)
    for name in ("one", "two", base):
        alike = [(reply, ask) for reply, ask in zip(mixed, asks, strict=True) if ask[2] == name]
        for (one, _), other in zip(alike, replies(core, [ask for _, ask in alike]), strict=True):
            assert apart(one, other) < TOLERANCE


def test_adapters_come_and_go_while_others_are_at_work(loaded, core, wrapped):
    answers, sampling = Answers(core), Sampling(max_tokens=80, seed=0, ignore_eos=True)
    asked = prompt(loaded, 30)
    (alone,) = replies(core, [(asked, sampling)])
    running = answers.ask(asked, sampling)
    for name in ("one", "two", "three") * 2:
        core.load_adapter(name, str(wrapped[1][name]))
        (reply,) = replies(core, [(asked, Sampling(max_tokens=2, seed=0, ignore_eos=True), name)])
        wanted = torch.log_softmax(by_peft(wrapped, name)(loaded, asked, reply.ids), dim=-1)[range(2), list(reply.ids)]
        assert (wanted - torch.tensor(reply.logprobs)).abs().max() < TOLERANCE
        core.unload_adapter(name)
    (through,) = answers.wait(running)
    assert apart(alone, through) < TOLERANCE


def test_when_the_last_adapter_is_gone_the_layers_are_the_plain_ones(loaded, core, wrapped):
    before = [type(module).__name__ for module in loaded.model.modules()]
    core.load_adapter("one", str(wrapped[1]["one"]))
    assert "Adapted" in {type(module).__name__ for module in loaded.model.modules()}
    core.unload_adapter("one")
    assert [type(module).__name__ for module in loaded.model.modules()] == before


def test_one_that_is_in_use_cannot_be_unloaded(loaded, core, wrapped):
    core.load_adapter("one", str(wrapped[1]["one"]))
    answers = Answers(core)
    place = answers.ask(prompt(loaded, 20), Sampling(max_tokens=400, ignore_eos=True), "one")
    with pytest.raises(Conflict, match="1 request uses 'one'"):
        core.unload_adapter("one")
    core.cancel(answers.tickets[place])
    answers.wait(place)
    core.unload_adapter("one")
    with pytest.raises(UnknownName, match="no model named 'one'"):
        answers.ask(prompt(loaded, 20), Sampling(max_tokens=1), "one")


def test_what_a_name_stands_for_never_changes(core, wrapped):
    told = core.load_adapter("one", str(wrapped[1]["one"]))
    assert core.load_adapter("one", str(wrapped[1]["one"])) == told == core.models()[1]["sha256"]
    with pytest.raises(Conflict, match="'one' is served already"):
        core.load_adapter("one", str(wrapped[1]["three"]))
    base = core.models()[0]["id"]
    with pytest.raises(Conflict, match="is served already"):
        core.load_adapter(base, str(wrapped[1]["three"]))
    with pytest.raises(Conflict, match="is the base"):
        core.unload_adapter(base)


def test_no_more_are_held_than_there_is_room_for(core, wrapped):
    for name in ("one", "two"):
        core.load_adapter(name, str(wrapped[1][name]))
    with pytest.raises(Conflict, match="2 adapters are held, the most"):
        core.load_adapter("three", str(wrapped[1]["three"]))
    assert [model["id"] for model in core.models()][1:] == ["one", "two"]


def test_one_of_too_high_a_rank_is_refused(loaded, wrapped):
    with engine(loaded, max_lora_rank=4) as core, pytest.raises(BadModel, match="r is 8, and the highest rank that is served"):
        core.load_adapter("two", str(wrapped[1]["two"]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_too_large_in_one_row_stays_in_that_row(dtype):
    """Row 0's own adapter is a small one; the other's weights, times row 0, are beyond what float16 holds."""
    kind = getattr(torch, dtype)
    turn = Turn(2, 4, device=torch.device("cpu"))
    adapted = Adapted(torch.nn.Linear(64, 8, bias=False).to(kind), turn, 2)
    x = torch.full((2, 1, 64), 40.0, dtype=kind)
    with torch.inference_mode():
        for slot, size in enumerate((0.01, 30.0)):
            adapted.put(slot, torch.full((4, 64), size, dtype=kind), torch.full((8, 4), 0.01, dtype=kind))
            turn.scale(slot, 4, 16 / 6)
        turn.select([0])
        alone = adapted(x[:1])[0, 0].float()
        for beside in (None, 1):
            turn.select([0, beside])
            assert adapted(x)[0, 0].float().tolist() == pytest.approx(alone.tolist(), rel=0.01)
