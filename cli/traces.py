"""The verb `traces`: episodes and their turns, to look at, to take away and to play back."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from heapq import nlargest
from pathlib import Path
from typing import Any

import click

from app.errors import BadFlag
from cli import complete, show
from cli.client import Client, Json
from cli.outputs import save, whole_file
from cli.scores import score, told
from cli.stores import import_traces, merge_traces

TURNS = 100
"""Turns asked for at once: each carries its whole prompt."""
FRAMES = 2000
"""Frames that an export remembers, so that one which many turns share is fetched once."""


@click.group()
def traces() -> None:
    """List, show, export, replay, score and import episodes.

    An EPISODE is the id of a trace, or the start of one.
    """


traces.add_command(import_traces)
traces.add_command(merge_traces)
traces.add_command(score)


@traces.command("list")
@click.option(
    "--job",
    metavar="JOB",
    shell_complete=complete.jobs,
    help="Only episodes of this job: an id, the start of one, a name, or @last.",
)
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Only episodes of this seed.")
@click.option("--policy", metavar="NAME", help="Only episodes that this policy played.")
@click.option("--state", type=click.Choice(["running", "done", "failed"]), help="Only episodes in this state.")
@click.option("--min-unlocked", type=click.IntRange(0), metavar="N", help="Only episodes with at least N achievements.")
@click.option("--best", type=click.IntRange(1), metavar="N", help="The N episodes with most achievements, then greatest return.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="No limit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the episodes under `data`.")
def list_traces(
    job: str | None,
    seed: int | None,
    policy: str | None,
    state: str | None,
    min_unlocked: int | None,
    best: int | None,
    limit: int,
    everything: bool,
    as_json: bool,
) -> None:
    """List episodes, the newest first, or the best of them."""
    wanted = {"seed": seed, "policy": policy, "state": state, "min_unlocked": min_unlocked}
    with Client() as client:
        if job is not None:
            wanted["job"] = client.job(job)["id"]
        found = client.pages("/traces", limit=None if best or everything else limit + 1, **wanted)
        rows = nlargest(best, found, key=_goodness) if best else list(found)
    more = not best and not everything and len(rows) > limit
    rows = rows[:limit] if more else rows
    if as_json:
        show.out_json({"object": "list", "data": rows, "has_more": more})
    elif not rows:
        show.say("no traces" + (" fit" if job or any(value is not None for value in wanted.values()) else " yet"))
    else:
        headers = ["episode", "job", "seed", "policy", "state", "turns", "steps", "achievements", "return", "scores", "ended"]
        for line in show.table(headers, [_row(row) for row in rows]):
            show.out(line)
        if more:
            show.say(f"more than {limit}; --limit N or --all shows the others")


def _goodness(episode: Json) -> tuple[float, float]:
    return float(episode.get("unlocked") or 0), _return(episode) or 0.0


def _return(episode: Json) -> float | None:
    """Sum of the environment's own rewards."""
    found = (episode.get("returns") or {}).get("native")
    return float(found) if isinstance(found, int | float) else None


def _row(row: Json) -> list[object]:
    member = f"/{row['member']}" if row.get("member") else ""
    back = _return(row)
    return [
        row.get("id"),
        show.clean(row.get("job_name") or row.get("job_id")),
        f"{row.get('seed')}{member}",
        show.clean(row.get("policy")),
        show.coloured(row.get("state")),
        row.get("turns"),
        row.get("length"),
        row.get("unlocked"),
        None if back is None else f"{back:.1f}",
        told(row.get("scores")),
        show.clean(row.get("error") or row.get("ended") or ""),
    ]


def turns_of(client: Client, episode: Json) -> Iterator[Json]:
    """The turns of an episode, in order."""
    after = -1
    while True:
        page = client.rows(f"/traces/{episode['id']}/turns", after=after, limit=TURNS)
        yield from page
        if len(page) < TURNS:
            return
        after = page[-1]["index"]


@traces.command("show")
@click.argument("episode")
@click.option("--json", "as_json", is_flag=True, help="Print the episode as one JSON object, its turns under `turn_list`.")
def show_trace(episode: str, as_json: bool) -> None:
    """Show an episode turn by turn: actions, reward, what was unlocked, outcome, milliseconds."""
    with Client() as client:
        found = client.trace(episode)
        turns = list(turns_of(client, found))
    if as_json:
        show.out_json({**found, "turn_list": turns})
        return
    for line in _heading(found):
        show.out(line)
    if turns:
        show.out()
        for line in show.table(
            ["turn", "actions", "reward", "unlocked", "outcome", "ms", "detail"], [_turn(turn) for turn in turns]
        ):
            show.out(line)


def _heading(episode: Json) -> list[str]:
    returns = (episode.get("returns") or {}).items()
    unlocked = sorted((episode.get("achievements") or {}).items(), key=lambda each: each[1])
    return show.fields(
        [
            ("episode", episode.get("id")),
            ("job", show.clean(f"{episode.get('job_id')} {episode.get('job_name') or ''}")),
            ("env", show.clean(f"{episode.get('env')} {episode.get('env_version')}")),
            ("split", show.clean(" ".join(filter(None, (episode.get("split"), episode.get("task_id")))))),
            ("seed", f"{episode.get('seed')}, member {episode.get('member')}"),
            ("begins", _begins(episode)),
            ("policy", show.clean(f"{episode.get('policy')} {episode.get('policy_version') or ''}")),
            ("state", show.coloured(episode.get("state"))),
            ("error", show.clean(episode.get("error") or "")),
            ("ended", show.clean(episode.get("ended") or "")),
            ("length", f"{episode.get('turns')} turns, {episode.get('length')} game steps"),
            ("returns", ", ".join(f"{show.clean(name)} {value:.2f}" for name, value in returns)),
            ("achievements", ", ".join(f"{show.clean(name)} at step {step}" for name, step in unlocked)),
            ("scores", told(episode.get("scores"))),
            ("sha256", episode.get("sha256")),
        ]
    )


def _begins(episode: Json) -> str:
    """Where an episode begins that does not begin with its seed."""
    source, _, turn = show.clean(episode.get("start_of") or "").partition("/")
    return f"at turn {turn} of {source}; what it tells is counted from there" if source else ""


def _turn(turn: Json) -> list[object]:
    milliseconds = sum((turn.get("timings") or {}).values())
    dropped = f" (not carried out: {_runs(turn['dropped'])})" if turn.get("dropped") else ""
    return [
        turn.get("index"),
        _runs(turn.get("actions") or []) + dropped,
        f"{turn.get('reward', 0):g}",
        show.clean(", ".join(turn.get("unlocked") or [])),
        show.clean(turn.get("outcome")),
        f"{milliseconds:.1f}",
        show.clean(turn.get("detail") or ""),
    ]


def _runs(actions: list[str]) -> str:
    """Actions in order, with a count where one comes several times in a row: ``move_left x3, do``."""
    runs: list[tuple[str, int]] = []
    for action in actions:
        if runs and runs[-1][0] == action:
            runs[-1] = (action, runs[-1][1] + 1)
        else:
            runs.append((action, 1))
    return show.clean(", ".join(name if count == 1 else f"{name} x{count}" for name, count in runs))


@traces.command()
@click.argument("ref", metavar="JOB|EPISODE")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The .jsonl file to write.")
@click.option("--no-images", is_flag=True, help="Leave the frames' pixels out; their sha256 stays.")
def export(ref: str, output: Path, no_images: bool) -> None:
    """Write turns with their whole prompts and replies to a file, one JSON object a line.

    Frames stand in the prompts as `data:` URLs of PNG. JOB may be an id, the start of one (job_...), a name, or @last. The file
    appears when it is complete.
    """
    with Client() as client:
        episodes = [client.trace(ref)] if ref.startswith("ep_") else _episodes_of(client, ref)
        frames = None if no_images else Frames(client)
        count = 0
        with whole_file(output) as file:
            for episode in episodes:
                about = {key: episode[key] for key in ("job_id", "seed", "member", "start_of", "policy", "env", "env_version")}
                for turn in turns_of(client, episode):
                    line = {"episode_id": episode["id"], **about, **turn}
                    if frames is not None:
                        line["messages"] = [frames.inline(message) for message in turn["messages"]]
                    file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                    count += 1
    show.say(f"✓ wrote {output} ({count} turns of {len(episodes)} episodes)")


def _episodes_of(client: Client, ref: str) -> list[Json]:
    job = client.job(ref)
    found = list(client.pages("/traces", job=job["id"]))
    if not found:
        raise BadFlag(f"{job['id']} has no traces to export")
    return sorted(found, key=lambda row: (row["iteration"], row["seed"], row["member"]))


class Frames:
    """Frames of a server as data URLs."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str] = {}

    def inline(self, message: Json) -> Json:
        """The message with the pixels of its images beside their sha256."""
        parts = [self._part(part) for part in message.get("parts") or []]
        return {**message, "parts": parts}

    def _part(self, part: Any) -> Any:
        if not isinstance(part, dict) or part.get("type") != "image":
            return part
        return {**part, "url": self.url(str(part["sha256"]))}

    def url(self, sha256: str) -> str:
        """The frame as a `data:` URL."""
        if sha256 not in self._known:
            if len(self._known) >= FRAMES:
                self._known.pop(next(iter(self._known)))
            with self._client.stream(f"/frames/{sha256}") as pieces:
                png = b"".join(pieces)
            self._known[sha256] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        return self._known[sha256]


@traces.command()
@click.argument("episode")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A .gif or .png; without it EPISODE.gif.")
@click.option("--scale", type=click.IntRange(1, 16), default=4, show_default=True, help="Screen pixels for a pixel of the frame.")
@click.option("--fps", type=click.IntRange(1, 50), default=8, show_default=True, help="Turns a second in a GIF.")
@click.option("--max-turns", type=click.IntRange(1), metavar="N", help="At most so many turns.")
def replay(episode: str, output: Path | None, scale: int, fps: int, max_turns: int | None) -> None:
    """Write an episode as a picture: a GIF that plays it, or a PNG with its turning points."""
    suffix = (output.suffix.lower() if output else "") or ".gif"
    if suffix not in (".gif", ".png"):
        raise BadFlag(f"--output {output} has the ending {suffix}; a replay is a .gif or a .png")
    with Client() as client:
        found = client.trace(episode)
        target = output or Path(f"{found['id']}.gif")
        path = f"/traces/{found['id']}/replay"
        with client.stream(path, format=suffix[1:], scale=scale, fps=fps, max_turns=max_turns) as pieces:
            count = save(pieces, target)
    show.say(f"✓ wrote {target} ({show.size(count)})")
