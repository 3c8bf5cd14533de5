"""The verb `traces score`: what judges say of episodes goes into the store, where a filter can ask for it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from app.errors import BadFlag, BadScores, InvalidInput, Problem
from cli import show
from cli.client import Client, Json

FORM = '{"episode": "ep_...", "scores": {"judge": 0.8}}'
NONE = "none"
"""The value that takes a score away."""
MOST = 10_000
"""Lines of one file: the most that the server takes at once, for it takes all or none."""
_PLACE = re.compile(r"\bdata\.(\d+)(?:\.(?:episode|scores))?(?=[.: ]|$)")
"""How the server names one of the lines that it was sent."""


@click.command()
@click.argument("episode", required=False)
@click.argument("scores", metavar="[JUDGE=SCORE]...", nargs=-1)
@click.option("--file", "path", type=click.Path(path_type=Path), metavar="FILE", help=f"A JSONL file with lines such as {FORM}.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with all scores of these episodes under `data`.")
def score(episode: str | None, scores: tuple[str, ...], path: Path | None, as_json: bool) -> None:
    """Give episodes the scores of judges, for a filter's min_judge_scores.

    For example: synthq traces score ep_7x3k quality=0.8 style=3

    A score is any finite number; `none` (in a file: null) takes it away. Scores of judges that are not named stay. A file is
    taken whole or not at all, and names episodes by their whole ids.
    """
    if path is not None and (episode is not None or scores):
        raise BadFlag("--file names the episodes itself; leave out EPISODE and JUDGE=SCORE")
    if path is not None:
        found = _from_file(path)
    elif episode is not None and scores:
        found = _one(episode, _pairs(scores))
    else:
        raise BadFlag("score takes an EPISODE with JUDGE=SCORE, or --file")
    if as_json:
        show.out_json(found)
    elif path is not None:
        show.say(f"✓ scored {len(found['data'])} episode{'s' * (len(found['data']) != 1)}")
    else:
        (item,) = found["data"]
        show.out(f"{item['episode']}: {told(item['scores']) or 'no scores'}")


def told(scores: Mapping[str, float] | None) -> str:
    """An episode's scores in a few words."""
    return ", ".join(f"{show.clean(judge)} {score:g}" for judge, score in sorted((scores or {}).items()))


def _one(ref: str, scores: Mapping[str, float | None]) -> Json:
    with Client() as client:
        return client.post("/scores", {"data": [{"episode": client.trace(ref)["id"], "scores": scores}]})


def _from_file(path: Path) -> Json:
    lines = read_lines(path)
    try:
        with Client() as client:
            return client.post("/scores", {"data": [item for _, item in lines]})
    except InvalidInput as error:
        told = _PLACE.sub(lambda place: f"{path}:{lines[int(place[1])][0]}", str(error))
        raise InvalidInput(told) from None


def _pairs(texts: Sequence[str]) -> dict[str, float | None]:
    pairs: dict[str, float | None] = {}
    for text in texts:
        judge, equals, value = text.partition("=")
        if not equals or not judge:
            raise BadFlag(f"{text[:80]!r} is no score; it takes JUDGE=NUMBER, such as quality=0.8")
        if judge in pairs:
            raise BadFlag(f"{judge[:80]} is given twice; keep one")
        pairs[judge] = None if value == NONE else _number(judge, value)
    return pairs


def _number(judge: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadFlag(f"{judge[:80]}={text[:80]}: a score is a finite number, such as 0.8, or {NONE}")
    return value


def read_lines(path: Path) -> list[tuple[int, Json]]:
    """The lines of a file of scores, with their numbers. Raises BadScores with every line that cannot be right."""
    try:
        with path.open("rb") as file:
            texts = [(number, text) for number, text in enumerate(file, start=1) if text.strip()]
    except OSError as error:
        raise BadFlag(f"--file {path} cannot be read: {error.strerror or error}") from None
    if not texts:
        raise BadFlag(f"--file {path} has no lines; a line is {FORM}")
    if len(texts) > MOST:
        raise BadFlag(f"--file {path} has {len(texts):,} lines; the most is {MOST:,}, for they are taken all or none")
    lines, problems = [], []
    for number, text in texts:
        try:
            lines.append((number, _line(text)))
        except ValueError as error:
            problems.append(Problem(key="", message=str(error), file=str(path), line=number))
    if problems:
        raise BadScores(problems)
    return lines


def _line(text: bytes) -> Json:
    """One line. Raises ValueError with a sentence."""
    try:
        item = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"is not JSON; a line is {FORM}") from None
    if not isinstance(item, dict) or set(item) != {"episode", "scores"}:
        raise ValueError(f"must be an object with the keys episode and scores, such as {FORM}")
    if not isinstance(item["episode"], str) or not item["episode"]:
        raise ValueError(f"episode must be the id of one, not {_shown(item['episode'])}")
    scores = item["scores"]
    if not isinstance(scores, dict) or not scores:
        raise ValueError(f'scores must be an object such as {{"judge": 0.8}}, not {_shown(scores)}')
    for judge, score in scores.items():
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score)):
            raise ValueError(f"the score by {show.clean(judge)[:80]} must be a finite number or null, not {_shown(score)}")
    return item


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}..."
