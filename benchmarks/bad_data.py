"""What `synthq data check` says to training data that cannot be right: ``python -m benchmarks.bad_data [> docs/bad-data.md]``.

Writes one JSONL file after another, each with one thing wrong, gives it to the real command line, and prints a Markdown table of
what came back. Each answer is held to the promises: exit code 2, exactly one problem, on the line and at the place that was
foreseen, with a sentence, and nothing on stderr. The lines around the bad one are good, and none of them may be told. Exits 1
when one does not hold.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.system import scratch

COMMAND = "python -m benchmarks.bad_data"
SYNTHQ = [sys.executable, "-m", "cli.main", "data", "check"]
REPOSITORY = Path(__file__).resolve().parent.parent
AT_ONCE = 2
BAD_LINE = 2

Line = dict[str, Any]


def picture(format: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (8, 8), **save: Any) -> bytes:
    """The bytes of a small picture."""
    with io.BytesIO() as out:
        Image.new(mode, size).save(out, format, **save)
        return out.getvalue()


def url(data: bytes, media: str = "image/png") -> str:
    """Bytes as a data: URL."""
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def animated() -> bytes:
    """A PNG of two frames."""
    second = Image.new("RGB", (8, 8), "red")
    return picture(save_all=True, append_images=[second])


def bomb() -> bytes:
    """A PNG whose header promises 30,000 x 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    packed = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def good() -> Line:
    """A line that is as it should be."""
    actions = {"type": "array", "items": {"type": "string", "enum": ["noop", "do", "move_left"]}, "minItems": 1, "maxItems": 8}
    parameters = {"type": "object", "properties": {"actions": actions}, "required": ["actions"], "additionalProperties": False}
    call = {"id": "call_0", "type": "function", "function": {"name": "interact_many", "arguments": '{"actions": ["do"]}'}}
    return {
        "messages": [
            {"role": "system", "content": "You play."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Health 9"}, {"type": "image_url", "image_url": {"url": url(picture())}}],
            },
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ],
        "tools": [{"type": "function", "function": {"name": "interact_many", "parameters": parameters}}],
        "metadata": {"seed": 0, "turn": 3, "reward": 1.0, "outcome": "ok"},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One bad file."""

    name: str
    """What is wrong with it, for the table."""
    content: bytes
    where: str = ""
    line: int | None = BAD_LINE
    flags: tuple[str, ...] = ()


def _lines(*lines: Line | bytes) -> bytes:
    return b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in lines)


def _file(bad: Line | bytes) -> bytes:
    return _lines(good(), bad, good())


def _changed(change: Callable[[Line], object]) -> bytes:
    line = copy.deepcopy(good())
    change(line)
    return _file(line)


def _user(line: Line) -> Any:
    return line["messages"][1]


def _reply(line: Line) -> Any:
    return line["messages"][2]


def _function(line: Line) -> Any:
    return _reply(line)["tool_calls"][0]["function"]


def give_url(value: object) -> Callable[[Line], object]:
    return lambda line: _user(line)["content"][1]["image_url"].update(url=value)


def give_arguments(value: object) -> Callable[[Line], object]:
    return lambda line: _function(line).update(arguments=value)


def cases() -> Iterator[Case]:
    """Every bad file."""
    yield from _files()
    yield from _whole_lines()
    yield from _messages()
    yield from _images()
    yield from _calls()
    yield from _metadata()


def _files() -> Iterator[Case]:
    raw = json.dumps(good()).encode()
    yield Case(name="an empty file", content=b"", line=None)
    yield Case(name="a byte order mark", content=b"\xef\xbb\xbf" + _lines(good(), good()), line=1)
    yield Case(name="one JSON array over many lines", content=b"[\n", line=1)
    yield Case(name="a Latin-1 letter", content=_file(raw.replace(b"You play.", b"Tu es pr\xeat.") + b"\n"))
    yield Case(name="an empty line in the middle", content=_file(b"\n"))
    yield Case(name="a file cut in its last line", content=_lines(good(), raw[:200]))
    yield Case(name="two lines run together", content=_file(raw + raw + b"\n"))
    yield Case(name="a comma behind the last key", content=_file(raw[:-1] + b",}\n"))
    yield Case(name="Python in place of JSON", content=_file(str(good()).encode() + b"\n"))
    yield Case(name="a key twice in one object", content=_file(raw[:-1] + b', "messages": []}\n'))
    yield Case(name="NaN as a reward", content=_file(raw.replace(b'"reward": 1.0', b'"reward": NaN') + b"\n"))
    yield Case(name="100,000 lists in one another", content=_file(b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"))
    yield Case(name="gzip", content=b"\x1f\x8b\x08\x00\x00\x00\x00\x00", line=1)
    few = ("--format", "openai")
    yield Case(name="two lines, for OpenAI", content=_lines(good(), good()), line=None, flags=few)


def _whole_lines() -> Iterator[Case]:
    yield Case(name="a list in place of an object", content=_file(b"[1, 2]\n"))
    yield Case(name="the old prompt and completion", content=_file(b'{"prompt": "hi", "completion": "ho"}\n'))
    yield Case(name="the ShareGPT form", content=_file(b'{"conversations": [{"from": "human", "value": "hi"}]}\n'))
    yield Case(name="a key with a slip", content=_changed(lambda line: line.update(tool=[])), where="tool")
    yield Case(name="no message at all", content=_changed(lambda line: line.update(messages=[])), where="messages")
    yield Case(
        name="messages as an object", content=_changed(lambda line: line.update(messages={"role": "user"})), where="messages"
    )


def _messages() -> Iterator[Case]:
    at = "messages[2]"
    empty = {"role": "assistant", "content": "  "}
    yield Case(name="an unknown role", content=_changed(lambda line: _user(line).update(role="usr")), where="messages[1].role")
    yield Case(
        name="content as a number", content=_changed(lambda line: _user(line).update(content=7)), where="messages[1].content"
    )
    yield Case(name="nothing to learn from", content=_changed(lambda line: line["messages"].pop()), where="messages")
    yield Case(name="weight 0 everywhere", content=_changed(lambda line: _reply(line).update(weight=0)), where="messages")
    yield Case(name="a weight of one half", content=_changed(lambda line: _reply(line).update(weight=0.5)), where=f"{at}.weight")
    yield Case(
        name="an empty reply", content=_changed(lambda line: line["messages"].__setitem__(2, empty)), where=f"{at}.content"
    )
    yield Case(
        name="the user has the last word",
        content=_changed(lambda line: line["messages"].append({"role": "user", "content": "well?"})),
        where="messages[3]",
    )
    yield Case(
        name="a control token in a text",
        content=_changed(lambda line: _user(line)["content"][0].update(text="<|im_end|>\n<|im_start|>system")),
        where="messages[1].content[0].text",
    )
    yield Case(
        name="the place of a picture in a text",
        content=_changed(lambda line: _user(line)["content"][0].update(text="see <image>")),
        where="messages[1].content[0].text",
    )
    yield Case(
        name="half a surrogate pair",
        content=_changed(lambda line: _user(line)["content"][0].update(text="\ud800")),
        where="messages[1].content[0].text",
    )
    yield Case(
        name="a call written as text",
        content=_changed(lambda line: _reply(line).update(content='<tool_call>{"name": "interact_many"}')),
        where=f"{at}.content",
    )
    yield Case(
        name="a key that messages do not have",
        content=_changed(lambda line: _reply(line).update(tool_call=[])),
        where=f"{at}.tool_call",
    )


def _images() -> Iterator[Case]:
    part, at = "messages[1].content[1]", "messages[1].content[1].image_url.url"
    png, jpeg = picture(), picture("JPEG")
    yield Case(
        name="image_url as a plain text",
        content=_changed(lambda line: _user(line)["content"][1].update(image_url=url(png))),
        where=f"{part}.image_url",
    )
    yield Case(name="an empty URL", content=_changed(give_url("")), where=at)
    yield Case(name="a blank URL", content=_changed(give_url("  ")), where=at)
    yield Case(name="null as URL", content=_changed(give_url(None)), where=at)
    yield Case(name="a number as URL", content=_changed(give_url(5)), where=at)
    yield Case(name="a word as URL", content=_changed(give_url("hello")), where=at)
    yield Case(name="a file's path", content=_changed(give_url("C:\\frames\\1.png")), where=at)
    yield Case(name="ftp", content=_changed(give_url("ftp://example.com/1.png")), where=at)
    yield Case(name="a link", content=_changed(give_url("https://example.com/1.png")), where=at)
    yield Case(name="bare base64", content=_changed(give_url(base64.b64encode(png).decode())), where=at)
    yield Case(name="what is not base64", content=_changed(give_url("data:image/png;base64,!!!")), where=at)
    yield Case(name="base64 that was cut", content=_changed(give_url(url(png)[:-3])), where=at)
    yield Case(name="base64 not announced", content=_changed(give_url("data:image/png,abc")), where=at)
    yield Case(name="no bytes", content=_changed(give_url("data:image/png;base64,")), where=at)
    yield Case(name="another media type", content=_changed(give_url(url(b"<svg/>", "image/svg+xml"))), where=at)
    yield Case(name="a GIF named PNG", content=_changed(give_url(url(picture("GIF")))), where=at)
    yield Case(name="a JPEG named PNG", content=_changed(give_url(url(jpeg))), where=at)
    yield Case(name="a web page named PNG", content=_changed(give_url(url(b"<!DOCTYPE html>"))), where=at)
    yield Case(name="a PNG cut in half", content=_changed(give_url(url(png[: len(png) // 2]))), where=at)
    yield Case(name="a PNG without its end", content=_changed(give_url(url(png[:-8]))), where=at)
    yield Case(name="a JPEG cut at its end", content=_changed(give_url(url(jpeg[:-20], "image/jpeg"))), where=at)
    yield Case(name="a palette", content=_changed(give_url(url(picture(mode="P")))), where=at)
    yield Case(name="two frames", content=_changed(give_url(url(animated()))), where=at)
    yield Case(name="5,000 pixels wide", content=_changed(give_url(url(picture(size=(5000, 8))))), where=at)
    yield Case(name="a strip of 1 x 300 pixels", content=_changed(give_url(url(picture(size=(1, 300))))), where=at)
    yield Case(name="900 million pixels", content=_changed(give_url(url(bomb()))), where=at)
    yield Case(name="more than 10 MB", content=_changed(give_url(url(png + bytes(10_000_000)))), where=at)
    seen = {"type": "image_url", "image_url": {"url": url(png)}}
    yield Case(name="eleven images", content=_changed(lambda line: _user(line).update(content=[seen] * 11)), where="messages")
    yield Case(
        name="two images where one may be",
        content=_lines(good(), {**good(), "messages": [{"role": "user", "content": [seen, seen]}, _reply(good())]}),
        where="messages[0].content",
        flags=("--max-images", "1"),
    )
    yield Case(
        name="an image from the assistant",
        content=_changed(lambda line: _reply(line).update(content=[seen])),
        where="messages[2].content[0]",
    )
    yield Case(
        name="an unknown detail",
        content=_changed(lambda line: _user(line)["content"][1]["image_url"].update(detail="hi")),
        where=f"{part}.image_url.detail",
    )


def _calls() -> Iterator[Case]:
    call = "messages[2].tool_calls[0]"
    at = f"{call}.function.arguments"
    yield Case(name="arguments as an object", content=_changed(give_arguments({"actions": ["do"]})), where=at)
    yield Case(name="arguments that are no JSON", content=_changed(give_arguments('{"actions": ["do"')), where=at)
    yield Case(name="arguments that are a list", content=_changed(give_arguments('["do"]')), where=at)
    yield Case(name="an unknown action", content=_changed(give_arguments('{"actions": ["go_left"]}')), where=f"{at}.actions[0]")
    yield Case(name="no action", content=_changed(give_arguments('{"actions": []}')), where=f"{at}.actions")
    yield Case(name="nine actions", content=_changed(give_arguments(json.dumps({"actions": ["do"] * 9}))), where=f"{at}.actions")
    yield Case(name="an argument too many", content=_changed(give_arguments('{"actions": ["do"], "why": "food"}')), where=at)
    yield Case(name="an argument too few", content=_changed(give_arguments("{}")), where=at)
    yield Case(
        name="an unknown tool",
        content=_changed(lambda line: _function(line).update(name="interact")),
        where=f"{call}.function.name",
    )
    yield Case(name="calls without tools", content=_changed(lambda line: line.pop("tools")), where=f"{call}.function.name")
    yield Case(
        name="a call without id", content=_changed(lambda line: _reply(line)["tool_calls"][0].pop("id")), where=f"{call}.id"
    )
    yield Case(
        name="the seed's own form of a call",
        content=_changed(lambda line: _reply(line).update(tool_calls=[{"tool_name": "interact_many", "args": {}}])),
        where=call,
    )
    twice = {"id": "call_1", "type": "function", "function": {"name": "interact_many", "arguments": '{"actions": ["noop"]}'}}
    yield Case(
        name="two calls where one may be",
        content=_changed(lambda line: (_reply(line)["tool_calls"].append(twice), line.update(parallel_tool_calls=False))),
        where="messages[2].tool_calls",
    )
    answer = {"role": "tool", "tool_call_id": "call_7", "content": "done"}
    yield Case(
        name="the answer to a call that nobody made",
        content=_changed(lambda line: line["messages"].insert(2, answer)),
        where="messages[2].tool_call_id",
    )
    yield Case(
        name="a schema with an unknown type",
        content=_changed(lambda line: line["tools"][0]["function"]["parameters"].update(type="dict")),
        where="tools[0].function.parameters.type",
    )


def _metadata() -> Iterator[Case]:
    yield Case(name="metadata as a text", content=_changed(lambda line: line.update(metadata="seed 0")), where="metadata")
    yield Case(name="a seed as a text", content=_changed(lambda line: line["metadata"].update(seed="0")), where="metadata.seed")
    yield Case(
        name="an unknown outcome",
        content=_changed(lambda line: line["metadata"].update(outcome="fine")),
        where="metadata.outcome",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one bad file."""

    case: Case
    place: str
    sentence: str
    faults: tuple[str, ...] = ()
    """Promises that did not hold."""


def ask(case: Case, folder: Path, number: int) -> Answer:
    """Give one bad file to the real command line."""
    file = folder / f"{number}.jsonl"
    file.write_bytes(case.content)
    ran = subprocess.run(
        [*SYNTHQ, "--json", *case.flags, str(file)], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    try:
        problems = json.loads(ran.stdout)["problems"]
    except (ValueError, KeyError):
        return Answer(case=case, place="", sentence=ran.stderr, faults=("no JSON",))
    faults = [f"exit code {ran.returncode}"] * (ran.returncode != 2) + ["stderr"] * bool(ran.stderr)
    faults += [f"{len(problems)} problems"] * (len(problems) != 1)
    first = problems[0] if problems else {"line": None, "where": "", "message": ""}
    found, wanted = (first["line"], first["where"]), (case.line, case.where)
    faults += [f"told at {found}, not {wanted}"] * (found != wanted)
    place = ": ".join([*([f"line {first['line']}"] if first["line"] else []), *([first["where"]] if first["where"] else [])])
    return Answer(case=case, place=place, sentence=first["message"], faults=tuple(faults))


def page(answers: list[Answer]) -> str:
    """The whole page."""
    rows = []
    for each in answers:
        name = each.case.name + (f" (`{' '.join(each.case.flags)}`)" if each.case.flags else "")
        rows.append(f"| {name} | {each.place or 'the file'} | {cell(each.sentence)} |")
    parts = [
        "# Bad training data, and what `synthq data check` says to it",
        "",
        f"    {COMMAND} > docs/bad-data.md",
        "",
        f"That command writes each of these {len(answers)} files and gives it to the real command line. It fails when the exit",
        "code is not 2, when the problem is not told on the line and at the place that was foreseen, when anything else is told,",
        "or when anything is on stderr. In most of the files line 2 is the bad one, between two good ones.",
        "",
        "| given | told at | the sentence |",
        "| --- | --- | --- |",
        *rows,
    ]
    return "\n".join(parts) + "\n"


def cell(text: str) -> str:
    clean = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return clean.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    """Print the page; tell what did not hold."""
    with scratch() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda each: ask(each[1], folder, each[0]), enumerate(cases())))
    print(page(answers), end="")
    broken = [each for each in answers if each.faults]
    for each in broken:
        print(f"{each.case.name}: {', '.join(each.faults)}: {each.sentence}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
