"""A line of training data as a sample: what the engine would be asked, what the policy would say, and nothing else is learnt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data import flow
from sft_kit import line, written

from app import migrate
from app.dataset.images import unpack
from app.errors import BadDataset, InvalidInput
from workers.model.inputs import Inputs
from workers.rollout import actions, envs, prompts
from workers.trainer.samples import Sample
from workers.trainer.sft.data import Data, Limits, kept_apart
from workers.trainer.sft.lines import Liner, Reading, reading
from workers.transport import chat

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def by(tiny_model: Path) -> Reading:
    return reading(str(tiny_model))


@pytest.fixture(scope="module")
def liner(by: Reading) -> Liner:
    return Liner(by)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Lines that a filter wrote of real play, in each format of a reply."""
    with flow.at_home(tmp_path_factory.mktemp("played") / "home"):
        migrate.upgrade()
        found = {}
        for reply_format in ("tool_call", "text"):
            tables = flow.eval_tables(
                policies=["scripted"], seeds="0-1", max_turns=6, reply_format=reply_format, env_config={"image_size": 63}
            )
            made = flow.run_spec(flow.filter_tables(jobs=[flow.run_spec(tables).id]))
            found[reply_format] = [json.loads(each) for each in flow.bytes_of(made, "dataset").splitlines()]
        yield found


def said(sample: Sample, by: Reading) -> str:
    """What is learnt of a sample, as text."""
    text: str = by.tokenizer.decode([sample.ids[place] for place in sample.targets])
    return text


@pytest.mark.parametrize("reply_format", ["tool_call", "text"])
def test_what_is_learnt_of_a_played_line_reads_as_the_play(
    reply_format: actions.ReplyFormat, played: dict[str, list[dict[str, Any]]], liner: Liner, by: Reading
) -> None:
    for each in played[reply_format]:
        [sample] = liner.samples(each, "a line")
        text = said(sample, by)
        assert text.endswith(chat.END)
        read = chat.read_reply(text)
        given, learnt = (prompts.reply_from_openai(message) for message in (each["messages"][-1], read))
        assert (learnt.text, learnt.tool_calls) == (given.text, given.tool_calls)
        taken = [
            actions.parse(reply, reply_format=reply_format, actions=envs.make("crafter", {}).actions, max_actions=8).actions
            for reply in (given, learnt)
        ]
        assert taken[0] == taken[1] != ()


def test_the_prompt_is_what_the_engine_would_be_asked(played: dict[str, list[dict[str, Any]]], liner: Liner, by: Reading) -> None:
    inputs = Inputs(by)
    for each in played["tool_call"]:
        [sample] = liner.samples(each, "a line")
        asked = inputs.prompt(each["messages"][:-1], each["tools"])
        assert sample.ids[: len(asked.ids)] == asked.ids
        assert sample.targets == tuple(range(len(asked.ids), len(sample.ids)))
        assert [picture.sha256 for picture in sample.pictures] == [picture.sha256 for picture in asked.pictures]


def test_every_picture_has_its_tokens(played: dict[str, list[dict[str, Any]]], liner: Liner, by: Reading) -> None:
    [sample] = liner.samples(played["tool_call"][0], "a line")
    [picture] = sample.pictures
    assert sample.ids.count(by.image_id) == picture.tokens(by.images.merge) > 0


CONVERSATION = [
    {"role": "system", "content": "play"},
    {"role": "user", "content": "tree"},
    {"role": "assistant", "content": "move_left"},
    {"role": "user", "content": "water"},
    {"role": "assistant", "content": "move_right"},
]


def test_every_reply_of_a_conversation_is_learnt_and_nothing_else(liner: Liner, by: Reading) -> None:
    [sample] = liner.samples({"messages": CONVERSATION}, "a line")
    assert said(sample, by) == f"move_left{chat.END}move_right{chat.END}"
    assert by.tokenizer.decode(sample.ids) == chat.render(CONVERSATION).removesuffix("\n")


def test_a_reply_of_weight_0_is_read_and_not_learnt(liner: Liner, by: Reading) -> None:
    messages = [{**message, "weight": 0} if i == 2 else message for i, message in enumerate(CONVERSATION)]
    [sample] = liner.samples({"messages": messages}, "a line")
    assert said(sample, by) == f"move_right{chat.END}"
    assert "move_left" in by.tokenizer.decode(sample.ids)


def test_a_template_that_writes_earlier_replies_otherwise_gives_a_sample_of_each(tiny_model: Path) -> None:
    own = reading(str(tiny_model))
    template = chat.TEMPLATE.read_text(encoding="utf-8")
    own.tokenizer.chat_template = template.replace(
        "{%- if message.role == 'assistant' %}", "{%- if message.role == 'assistant' %}{{- ' (said)' }}"
    )
    first, second = Liner(own).samples({"messages": CONVERSATION}, "train.jsonl:3")
    assert (first.key, second.key) == ("train.jsonl:3 (reply 1)", "train.jsonl:3 (reply 2)")
    assert said(first, own) == f"move_left{chat.END}"
    assert said(second, own) == f"move_right{chat.END}"
    assert "(said)" in own.tokenizer.decode(second.ids)


def test_a_template_that_loses_pictures_is_told_with_the_line(
    tiny_model: Path, tmp_path: Path, played: dict[str, list[dict[str, Any]]]
) -> None:
    own = reading(str(tiny_model))
    template = chat.TEMPLATE.read_text(encoding="utf-8")
    own.tokenizer.chat_template = template.replace("<|vision_start|><|image_pad|><|vision_end|>", "a picture")
    file = written(tmp_path / "t.jsonl", [line("tree", "noop"), *played["tool_call"][:2]])
    with pytest.raises(BadDataset) as caught:
        Data(file, "t.jsonl", own, Limits(tokens=4096))
    assert [problem.line for problem in caught.value.problems] == [2, 3]
    assert "writes 0 pictures, and the messages hold 1" in caught.value.problems[0].message


def test_lines_that_are_too_long_are_all_told_or_left_out_and_counted(tmp_path: Path, by: Reading) -> None:
    long = line("tree " * 200, "noop")
    file = written(tmp_path / "t.jsonl", [line("tree", "noop"), *[long] * 30, line("water", "noop")])
    with pytest.raises(BadDataset) as caught:
        Data(file, "t.jsonl", by, Limits(tokens=64))
    assert (caught.value.total, len(caught.value.problems)) == (30, 20)
    assert caught.value.problems[0].line == 2
    assert 'sequence_length is 64; raise it, or write too_long = "drop"' in caught.value.problems[0].message
    kept = Data(file, "t.jsonl", by, Limits(tokens=64, too_long="drop"))
    assert (len(kept), kept.dropped, kept.lines) == (2, 30, 32)
    assert [entry.line for entry in kept.entries] == [1, 32]


def test_a_sample_that_is_made_again_is_the_same(tmp_path: Path, by: Reading, played: dict[str, list[dict[str, Any]]]) -> None:
    file = written(tmp_path / "t.jsonl", [*played["text"], line("wood", "noop")])
    nothing_kept, all_kept = Data(file, "t", by, Limits(tokens=4096), budget=0), Data(file, "t", by, Limits(tokens=4096))
    for number, entry in enumerate(nothing_kept.entries):
        one, other = nothing_kept.sample(number), all_kept.sample(number)
        assert one == other
        assert all_kept.sample(number) is other
        assert (len(one.ids), len(one.targets), len(one.pictures)) == (entry.tokens, entry.targets, entry.pictures)
        assert one.key == f"t:{entry.line}"


def test_the_first_lines_alone_may_be_read(tmp_path: Path, by: Reading) -> None:
    file = written(tmp_path / "t.jsonl", [line("tree", "noop", seed=i) for i in range(9)])
    assert len(Data(file, "t", by, Limits(tokens=64, lines=4))) == 4


def test_lines_of_a_seed_are_kept_apart_together(tmp_path: Path, by: Reading) -> None:
    file = written(tmp_path / "t.jsonl", [line("tree", "noop", seed=i % 5) for i in range(40)])
    entries = Data(file, "t", by, Limits(tokens=64)).entries
    train, tried = kept_apart(entries, 0.4, seed=1)
    groups = [{entries[number].group for number in side} for side in (train, tried)]
    assert sorted([*train, *tried]) == list(range(40))
    assert [len(group) for group in groups] == [3, 2]
    assert groups[0].isdisjoint(groups[1])
    assert kept_apart(entries, 0.4, seed=1) == (train, tried)
    assert any(kept_apart(entries, 0.4, seed=seed)[1] != tried for seed in range(2, 6))


def test_one_seed_alone_cannot_be_parted(tmp_path: Path, by: Reading) -> None:
    file = written(tmp_path / "t.jsonl", [line("tree", "noop", seed=3)] * 4)
    with pytest.raises(InvalidInput, match=r"all lines are of one \(seed 3\)"):
        kept_apart(Data(file, "t", by, Limits(tokens=64)).entries, 0.5, seed=0)


def test_pictures_are_those_of_the_line(played: dict[str, list[dict[str, Any]]], liner: Liner, by: Reading) -> None:
    each = played["tool_call"][0]
    [sample] = liner.samples(each, "a line")
    parts = [part for message in each["messages"] if isinstance(message["content"], list) for part in message["content"]]
    [url] = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert sample.pictures == (by.images.read(unpack(url)[1]),)
