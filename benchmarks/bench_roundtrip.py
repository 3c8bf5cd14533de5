"""Does training meet what play said? Exported lines through chat template and parser, against the turns that they came from.

    python -m benchmarks.bench_roundtrip [--seeds 0-7] [--turns 80]

Real workers play the scripted expert and the random policy (several actions a turn) in both reply formats and export the play.
Then, for every line: prompt and reply as text must be the whole conversation as text; the reply's text, read back, must be the
line's own last message and the stored reply byte for byte; parsed, it must be the stored turn's actions; and there must be one
place of a picture for each picture. Exits 1 when anything differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.system import System, machine, save, scratch, submit, wait_for

FORMATS = ("tool_call", "text")
ACTIONS_A_TURN = 5
"""Of the random policy. The expert says one."""
WORKERS = 2


@dataclass(slots=True, kw_only=True)
class Result:
    """What became of the lines of one file."""

    lines: int = 0
    actions: int = 0
    several: int = 0
    """Lines whose reply holds more than one action."""
    images: int = 0
    render_ms: float = 0.0
    """Milliseconds in ``prompt_and_reply``, all lines together."""
    read_ms: float = 0.0
    """Milliseconds in ``read_reply``, all lines together."""
    faults: list[str] = field(default_factory=list)


def compare(data: bytes, job: Any) -> Result:
    """Hold the lines of an eval job's export to the turns in the store."""
    from app.specs import parse
    from workers.rollout import envs

    table = parse(job.kind, job.spec).eval
    reader = {
        "reply_format": table.reply_format,
        "actions": envs.make(table.env).actions,
        "max_actions": table.policy_config.max_actions,
    }
    result = Result()
    for number, text in enumerate(data.splitlines(), 1):
        faults = _line(json.loads(text), reader, result)
        result.lines += 1
        result.faults += [f"line {number}: {fault}" for fault in faults]
    return result


def _line(line: dict[str, Any], reader: dict[str, Any], result: Result) -> list[str]:
    from app.records import Outcome
    from workers.rollout import actions, prompts
    from workers.transport import chat

    messages, tools = line["messages"], line.get("tools")
    turn = _turn(line["metadata"]["episode"], line["metadata"]["turn"])
    wanted = [*turn.actions, *turn.dropped]
    began = time.perf_counter()
    prompt, said = chat.prompt_and_reply(messages, tools)
    rendered = time.perf_counter()
    message = chat.read_reply(said)
    result.render_ms += 1000 * (rendered - began)
    result.read_ms += 1000 * (time.perf_counter() - rendered)
    reply = prompts.reply_from_openai(message)
    parsed = actions.parse(reply, **reader)
    images = sum(
        part["type"] == "image_url" for each in messages if isinstance(each["content"], list) for part in each["content"]
    )
    result.actions += len(wanted)
    result.several += len(wanted) > 1
    result.images += images
    stored = turn.reply["text"], [(call["name"], call["arguments"]) for call in turn.reply["tool_calls"]]
    checks = {
        "prompt + reply is not the whole": prompt + said == chat.render(messages, tools),
        "the prompt is not what play would ask with": prompt == chat.render(messages[:-1], tools, add_generation_prompt=True),
        "another message comes back": message == messages[-1],
        "the reply is not the stored one": (reply.text, [(call.name, call.arguments) for call in reply.tool_calls]) == stored,
        f"its outcome is {parsed.outcome}": parsed.outcome is Outcome.OK,
        f"its actions are {parsed.actions}, not {wanted}": list(parsed.actions) == wanted,
        "the prompt has not one place for each picture": prompt.count(chat.IMAGE) == images,
    }
    return [sentence for sentence, holds in checks.items() if not holds]


def _turn(episode_id: str, index: int) -> Any:
    from sqlmodel import select

    from app import db
    from app.models import TurnRow

    with db.reading() as session:
        return session.exec(select(TurnRow).where(TurnRow.episode_id == episode_id, TurnRow.index == index)).one()


def tables(reply_format: str, seeds: str, turns: int) -> dict[str, Any]:
    """An eval of both policies in one reply format."""
    table = {
        "policies": ["scripted", "random"],
        "seeds": seeds,
        "max_turns": turns,
        "reply_format": reply_format,
        "policy_options": {"random": {"actions_per_turn": ACTIONS_A_TURN}},
    }
    return {"eval": table}


def export(job_id: str) -> bytes:
    """The lines of a job's episodes, by a filter job."""
    from app import artifacts, db
    from app.store import jobs

    made = wait_for(submit("filter", {"filter": {"jobs": [job_id]}}))
    if made.state != "succeeded":
        raise SystemExit(f"the filter job failed: {made.reason}")
    with db.reading() as session:
        (dataset,) = [artifact for artifact in jobs.artifacts(session, made) if artifact.kind == "dataset"]
    return artifacts.read_artifact(dataset)


def main() -> int:
    """Run and print."""
    from app.dataset import Summary, check

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-7", help="seeds that each policy plays in each format")
    parser.add_argument("--turns", type=int, default=80, help="turns of an episode at the most")
    given = parser.parse_args()
    print(machine())
    print("| reply format | lines | actions | of several actions | images | render, ms a line | read, ms a line | mismatches |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    figures: dict[str, Any] = {}
    faults: list[str] = []
    with scratch() as home, System(home, workers=WORKERS):
        for reply_format in FORMATS:
            job = wait_for(submit("eval", tables(reply_format, given.seeds, given.turns)))
            data, summary = export(job.id), Summary()
            told = [f"{reply_format}: {problem}" for problem in check(data.splitlines(keepends=True), summary=summary)]
            result = compare(data, job)
            faults += [*told, *(f"{reply_format}: {fault}" for fault in result.faults)]
            counts = f"{result.lines} | {result.actions} | {result.several} | {result.images}"
            times = f"{result.render_ms / result.lines:.3f} | {result.read_ms / result.lines:.3f}"
            print(f"| {reply_format} | {counts} | {times} | {len(result.faults)} |")
            figures[reply_format] = {"lines": result.lines, "mismatches": len(result.faults), "problems": summary.problems}
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    total = sum(each["lines"] for each in figures.values())
    print(f"\n{total} lines, {len(faults)} mismatches and problems")
    save("roundtrip", figures)
    return 1 if faults or total < 1000 else 0


if __name__ == "__main__":
    sys.exit(main())
