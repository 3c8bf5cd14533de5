"""The check of training data: every bad file gets its sentence on the right line, and nothing else is told."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.dataset import Options, Summary, check, ensure
from app.dataset import __main__ as program
from app.dataset import source as lines
from app.dataset.summary import MOST_NAMES, OTHERS, count
from app.errors import BadDataset, InvalidInput, Problem
from benchmarks import bad_data
from cli.main import main
from workers.transport import chat

CASES = list(bad_data.cases())
PAGE = Path(__file__).parents[2] / "docs" / "bad-data.md"
OPENAI = Options(format="openai")


def raw(line: Any) -> bytes:
    return json.dumps(line).encode() + b"\n"


def problems(*content: Any, options: Options | None = None, summary: Summary | None = None) -> list[Problem]:
    return list(check([each if isinstance(each, bytes) else raw(each) for each in content], options, summary))


def options_of(flags: tuple[str, ...]) -> Options:
    asked = program.parser().parse_args(["check", *flags, "x"])
    return Options(format=asked.format, max_images=asked.max_images)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_bad_file_gets_one_sentence_at_its_place(case: bad_data.Case, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(case.content)

    (found,) = check(file, options_of(case.flags))

    assert (found.line, found.key) == (case.line, case.where)
    assert f"| {bad_data.cell(found.message)} |" in PAGE.read_text(), "python -m benchmarks.bad_data > docs/bad-data.md"


def test_there_is_no_case_twice() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 25


def test_a_good_line_has_no_problem_and_everything_is_counted() -> None:
    summary, line = Summary(), bad_data.good()

    assert problems(line, line, summary=summary) == []

    assert summary.as_json() == {
        "lines": 2,
        "bytes": 2 * len(raw(line)),
        "problems": 0,
        "bad_lines": 0,
        "messages": 6,
        "roles": {"system": 2, "user": 2, "assistant": 2},
        "replies": 2,
        "calls": {"interact_many": 2},
        "tools": {"interact_many": 2},
        "images": 2,
        "image_lines": 2,
        "image_bytes": 2 * len(bad_data.picture()),
        "image_sizes": {"PNG 8x8": 2},
        "links": 0,
        "outcomes": {"ok": 2},
        "undocumented": {},
        "unchecked": {},
    }


@pytest.mark.parametrize(
    ("format", "media", "mode"),
    [
        ("PNG", "image/png", "RGB"),
        ("PNG", "image/png", "RGBA"),
        ("JPEG", "image/jpeg", "RGB"),
        ("WEBP", "image/webp", "RGB"),
        ("WEBP", "image/webp", "RGBA"),
    ],
)
def test_the_three_formats_are_taken_with_and_without_transparency(format: str, media: str, mode: str) -> None:
    line = bad_data.good()
    bad_data.give_url(bad_data.url(bad_data.picture(format, mode), media))(line)

    assert problems(line) == []


def test_a_line_that_is_a_conversation_with_an_answering_tool_is_good() -> None:
    line = bad_data.good()
    line["messages"] += [
        {"role": "tool", "tool_call_id": "call_0", "content": "You hit the tree."},
        {"role": "assistant", "content": "Done.", "weight": 1},
    ]

    assert problems(line) == []


def test_a_missing_key_may_be_null_as_in_a_table_of_all_lines() -> None:
    line = bad_data.good()
    for message in line["messages"]:
        message.update(name=None, weight=None, tool_call_id=None, tool_calls=message.get("tool_calls"))
    line["messages"][1]["content"][0]["image_url"] = None
    line.update(parallel_tool_calls=None)
    line["metadata"].update(model=None)

    assert problems(line) == []


def test_openai_takes_what_only_training_here_does_not() -> None:
    line = bad_data.good()
    line["messages"][1]["content"] += [{"type": "image_url", "image_url": {"url": "https://example.com/1.png", "detail": "low"}}]
    line["messages"].append({"role": "user", "content": "<image>"})
    line["metadata"]["seed"] = "0"
    summary = Summary()

    assert problems(*[line] * 10, options=OPENAI, summary=summary) == []
    assert summary.links == 10
    assert summary.undocumented == {"metadata": 10}
    assert {each.key for each in problems(line)} == {
        "messages[1].content[2].image_url.url",
        "messages[3].content",
        "messages[3]",
        "metadata.seed",
    }


def test_every_problem_of_a_line_is_told_at_once() -> None:
    line = bad_data.good()
    line["messages"][0]["role"] = "sytem"
    bad_data.give_url("ftp://x/1.png")(line)
    bad_data.give_arguments('{"actions": ["fly", "do", "swim"]}')(line)

    assert [each.key for each in problems(line)] == [
        "messages[0].role",
        "messages[1].content[1].image_url.url",
        "messages[2].tool_calls[0].function.arguments.actions[0]",
        "messages[2].tool_calls[0].function.arguments.actions[2]",
    ]


@pytest.mark.parametrize(
    ("schema", "value", "fits"),
    [
        ({"type": "integer"}, 3, True),
        ({"type": "integer"}, 3.5, False),
        ({"type": "integer"}, True, False),
        ({"type": ["string", "null"]}, None, True),
        ({"enum": [1]}, True, False),
        ({"const": "a"}, "b", False),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 7, False),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None, True),
        ({"type": "string", "maxLength": 2}, "abc", False),
        ({"type": "number", "minimum": 0, "maximum": 1}, 1.5, False),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"x": 1}, False),
        (False, 1, False),
        (True, 1, True),
        ({}, [1, {"a": None}], True),
    ],
)
def test_arguments_are_held_to_the_schema_of_the_tool(schema: Any, value: Any, fits: bool) -> None:
    line = bad_data.good()
    line["tools"][0]["function"]["parameters"] = {"type": "object", "properties": {"x": schema}}
    bad_data.give_arguments(json.dumps({"x": value}))(line)

    assert (problems(line) == []) is fits


def test_a_keyword_of_a_schema_that_is_not_looked_at_is_counted() -> None:
    line, summary = bad_data.good(), Summary()
    line["tools"][0]["function"]["parameters"]["properties"]["actions"]["uniqueItems"] = True

    assert problems(line, summary=summary) == []
    assert summary.unchecked == {"uniqueItems": 1}
    assert ("not checked", "uniqueItems 1 in tool schemas") in summary.rows()


@pytest.mark.parametrize("key", ["type", "enum", "properties", "required", "anyOf", "minItems", "items"])
def test_a_schema_that_is_none_is_told_and_breaks_nothing(key: str) -> None:
    line = bad_data.good()
    line["tools"][0]["function"]["parameters"][key] = "x"

    assert [each.key for each in problems(line)] == [f"tools[0].function.parameters.{key}"]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


@given(place=st.sampled_from(list(places(bad_data.good()))), value=ANY, strict=st.booleans())
def test_any_value_anywhere_is_looked_at_and_what_is_taken_can_be_rendered(place: Any, value: Any, strict: bool) -> None:
    line: Any = copy.deepcopy(bad_data.good())
    inner = line
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value

    found = problems(json.dumps(line).encode(), options=None if strict else OPENAI)

    if not found:
        prompt, reply = chat.prompt_and_reply(line["messages"], line["tools"])
        assert prompt + reply == chat.render(line["messages"], line["tools"])


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_problem_and_never_a_fault(content: bytes) -> None:
    found = problems(*content.splitlines(keepends=True))

    assert found
    assert all(each.message for each in found)


def test_ensure_raises_with_the_first_problems_and_the_number_of_the_others(tmp_path: Path) -> None:
    with pytest.raises(BadDataset) as bad:
        ensure([b"{}\n"] * 5, name="mine.jsonl", most=2)

    told = str(bad.value).splitlines()
    assert told[0] == "5 problems in 5 lines:"
    assert told[1].startswith("  mine.jsonl:1: the line has no key 'messages'")
    assert told[3] == "  and 3 more"
    assert (bad.value.total, [each.line for each in bad.value.problems]) == (5, [1, 2])


def test_ensure_gives_the_counts_of_good_lines() -> None:
    assert ensure([raw(bad_data.good())]).lines == 1


def test_a_line_too_long_is_told_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 2000)
    file, summary = tmp_path / "long.jsonl", Summary()
    file.write_bytes(raw({"x": "y" * 5000}) + raw(bad_data.good()))

    (found,) = check(file, summary=summary)

    assert (found.line, "longer than 2000 bytes" in found.message) == (1, True)
    assert summary.lines == 2
    assert summary.replies == 1


def test_a_file_is_read_in_the_memory_of_a_line(tmp_path: Path) -> None:
    import tracemalloc

    file = tmp_path / "large.jsonl"
    with file.open("wb") as out:
        for _ in range(3000):
            out.write(raw(bad_data.good()))
    tracemalloc.start()
    try:
        assert list(check(file)) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < file.stat().st_size / 3


def test_no_file_makes_a_counter_grow_without_end() -> None:
    from collections import Counter

    counter: Counter[str] = Counter()
    for i in range(MOST_NAMES + 5):
        count(counter, str(i))

    assert len(counter) == MOST_NAMES + 1
    assert counter[OTHERS] == 5


@pytest.mark.parametrize("asked", [{"format": "alpaca"}, {"max_images": -1}])
def test_options_that_cannot_be_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Options(**asked)


def test_the_command_lists_problems_up_to_a_number_and_counts_the_others(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(raw(bad_data.good()) + b"{}\n" * 4)

    assert program.main(["check", "--max-problems", "3", str(file)]) == 2

    told = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in told[:3]] == [f"{file}:{n}" for n in (2, 3, 4)]
    assert told[3] == "and 1 problem more, not listed (--max-problems)"
    assert told[-1] == f"✗ 4 problems in {file}"


def test_the_command_prints_counts_and_exits_0_when_all_is_good(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "good.jsonl"
    file.write_bytes(raw(bad_data.good()))

    assert program.main(["check", str(file)]) == 0

    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == f"✓ no problem in {file} (synthq format)"
    assert "tool calls  interact_many 1" in told.out
    assert told.err == ""


def test_a_terminal_is_shown_how_far_the_check_is(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "good.jsonl"
    file.write_bytes(raw(bad_data.good()) * 4)
    monkeypatch.setattr(program, "PROGRESS_S", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    assert program.main(["check", str(file)]) == 0

    assert [text.strip("\r") for text in capsys.readouterr().err.split("\x1b[K")][1:3] == [
        "25 %, 1 lines, 0 problems",
        "50 %, 2 lines, 0 problems",
    ]


@pytest.mark.parametrize(
    ("key", "value"), [("unlocked", ["eat_cow"]), ("original_actions", 7), ("return_to_go", "1"), ("reward", True)]
)
def test_metadata_of_another_type_than_the_filter_writes_is_told(key: str, value: Any) -> None:
    line = bad_data.good()
    line["metadata"][key] = value

    assert [each.key for each in problems(line)] == [f"metadata.{key}"]


def test_a_file_cannot_drive_the_terminal(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "evil.jsonl"
    file.write_bytes(raw({**bad_data.good(), "\x1b[2J\n": 1, "metadata": {"outcome": "\x1b]0;x\x07"}}))

    assert program.main(["check", str(file)]) == 2
    assert program.main(["show", "--line", "1", str(file)]) == 2

    assert not set(capsys.readouterr().out) & {"\x1b", "\x07"}


def test_show_tells_a_line_and_writes_its_images(tmp_path: Path, capsys: Any) -> None:
    file, folder, line = tmp_path / "two.jsonl", tmp_path / "images", bad_data.good()
    content = line["messages"][1]["content"]
    jpeg = bad_data.picture("JPEG", size=(16, 4))
    content += [{"type": "image_url", "image_url": {"url": url}} for url in (bad_data.url(jpeg, "image/jpeg"), "ftp://x")]
    file.write_bytes(b"{}\n" + raw(line))

    assert program.main(["show", "--line", "2", "--images", str(folder), str(file)]) == 2

    told = capsys.readouterr().out
    assert "[1] user\n    Health 9\n    <image: PNG 8 x 8, " in told
    assert "<image: JPEG 16 x 4, " in told
    assert '[2] assistant\n    calls interact_many({"actions": ["do"]})\n' in told
    assert "✗ messages[1].content[3].image_url.url: has the scheme 'ftp'" in told
    assert (folder / "line-2-image-1.png").read_bytes() == bad_data.picture()
    with Image.open(folder / "line-2-image-2.png") as written:
        assert (written.format, written.size) == ("PNG", (16, 4))


def test_show_as_json_leaves_the_bytes_out(tmp_path: Path, capsys: Any) -> None:
    file, line = tmp_path / "one.jsonl", bad_data.good()
    bad_data.give_url(bad_data.url(bad_data.picture(size=(64, 64))))(line)
    file.write_bytes(raw(line))

    assert program.main(["show", "--line", "1", "--json", str(file)]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["line"]["messages"][1]["content"][1]["image_url"]["url"].endswith(" characters)")
    assert told["line"]["tools"] == line["tools"]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["check", "nowhere.jsonl"], 3, "there is no file 'nowhere.jsonl'"),
        (["show", "--line", "9", "{good}"], 2, "has 1 lines, so no line 9"),
        (["show", "--line", "1", "{none}"], 2, "none.jsonl:1: the line is not JSON"),
    ],
)
def test_what_cannot_be_looked_at_is_a_sentence(words: list[str], code: int, sentence: str, tmp_path: Path, capsys: Any) -> None:
    good, none = tmp_path / "good.jsonl", tmp_path / "none.jsonl"
    good.write_bytes(raw(bad_data.good()))
    none.write_bytes(b"hello\n")

    assert program.main([word.format(good=good, none=none) for word in words]) == code

    assert sentence in capsys.readouterr().err


def test_synthq_data_starts_the_program_with_the_words_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[tuple[str, ...]] = []
    monkeypatch.setattr("cli.data.become", lambda *words: began.append(words))

    assert main(["data", "check", "--format", "openai", "--max-images", "2", "--json", "--", "-x.jsonl"]) == 0
    assert main(["data", "show", "y.jsonl", "--line", "3", "--images", "here"]) == 0

    for words in began:
        assert words[0] == "app.dataset"
        program.parser().parse_args(words[1:])
    assert [words[-1] for words in began] == ["-x.jsonl", "y.jsonl"]


def test_the_real_command_line_tells_a_bad_file(tmp_path: Path) -> None:
    case = next(each for each in CASES if each.name == "a JPEG named PNG")

    answer = bad_data.ask(case, tmp_path, 1)

    assert answer.faults == ()
    assert answer.sentence == "says image/png, and its data is JPEG; write image/jpeg"
