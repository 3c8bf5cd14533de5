"""From stored turns to samples: the very tokens, log-probabilities and pictures that were there when they were sampled.

No text is rendered and nothing is tokenised here, so what is learnt from is what was said. A turn whose reply could not be read
is a sample like any other: its reward says what it was worth.
"""

from __future__ import annotations

import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from app import db
from app.errors import InvalidInput, StepFailed
from app.records import Outcome
from workers.model.images import ImageReader
from workers.model.types import Patches, Picture
from workers.trainer.objective.advantages import Group
from workers.trainer.rl import stored
from workers.trainer.rl.options import TILES, Play
from workers.trainer.rl.stored import Iteration, Played, Turn
from workers.trainer.samples import Sample
from workers.transport import pixels

ENGINE_ERROR, NO_TOKENS, STALE = "engine_error", "no_tokens", "stale"
"""Why a turn is no sample."""
_VERSION: Final = re.compile(r"(?P<line>.+)-v(?P<number>\d+)(?:@[0-9a-f]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a sample is from."""

    group: int
    episode: int
    """In its group."""
    turn: int
    """In its episode."""
    staleness: int
    """Updates between the policy that sampled it and the one that is updated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """An iteration's play, ready for the trainer."""

    samples: tuple[Sample, ...]
    """By seed, member and turn; without advantages, and without their pictures, which take far more room: ``shown`` has them."""
    shown: Shown
    places: tuple[Place, ...]
    """Of each sample."""
    groups: tuple[Group, ...]
    """Every turn's reward, also of those that are no samples."""
    left_out: Mapping[str, int]
    """Turns that are no samples, by reason."""
    figures: Mapping[str, float]
    """How the episodes went."""


def collect(job_id: str, iteration: int, play: Play, *, version: int, images: ImageReader, image_id: int) -> Collected:
    """The samples of an iteration, for an update of the job's version ``version``.

    ``images`` reads pictures as the model's folder says, ``image_id`` is the token that stands for a piece of one. Raises
    StepFailed, with the turn, for one that is not what it was when it was sampled.
    """
    with db.reading() as session:
        found = stored.read(session, job_id, iteration, play.split)
        wanted = {sha256 for each in found.episodes for turn in each.turns for sha256 in turn.pictures}
        pngs = stored.frames(session, wanted)
    shown = Shown(pngs, play, images)
    groups, samples, places = _groups(found.episodes), [], []
    left_out: Counter[str] = Counter()
    for group, episodes in enumerate(groups):
        for place, episode in enumerate(episodes):
            for at, turn in enumerate(episode.turns):
                age = _age(turn, job_id, version)
                if (why := _why_not(turn, age, play.staleness)) is not None:
                    left_out[why] += 1
                    continue
                samples.append(_sample(turn, play, shown, image_id))
                places.append(Place(group=group, episode=place, turn=at, staleness=age))
    return Collected(
        samples=tuple(samples),
        shown=shown,
        places=tuple(places),
        groups=tuple(_group(episodes) for episodes in groups),
        left_out=left_out,
        figures={**_figures(found), **_ages(places, samples, left_out)},
    )


def _groups(episodes: Iterable[Played]) -> list[list[Played]]:
    """Episodes of one seed stand together."""
    by_seed: defaultdict[int, list[Played]] = defaultdict(list)
    for episode in episodes:
        by_seed[episode.seed].append(episode)
    return list(by_seed.values())


def _group(episodes: Sequence[Played]) -> Group:
    return Group(
        rewards=tuple(np.array([turn.reward for turn in episode.turns], np.float64) for episode in episodes),
        # where the world does not tell its state, what was seen of it stands for it
        states=tuple(tuple(turn.state or turn.frame for turn in episode.turns) for episode in episodes),
        unlocked=tuple(tuple(tuple(turn.unlocked) for turn in episode.turns) for episode in episodes),
    )


def _age(turn: Turn, job_id: str, version: int) -> int:
    """Updates since the policy that answered; 0 where none did."""
    if turn.outcome == Outcome.ENGINE_ERROR:
        return 0
    found = _VERSION.fullmatch(turn.version)
    if found is None or found["line"] != job_id:
        raise StepFailed(f"{turn.name} was answered by {turn.version!r}, which is no version of the adapter that {job_id} trains")
    if (age := version - int(found["number"])) < 0:
        raise StepFailed(f"{turn.name} was answered by version {found['number']}, and the newest is version {version}")
    return age


def _why_not(turn: Turn, age: int, most: int) -> str | None:
    if turn.outcome == Outcome.ENGINE_ERROR:
        return ENGINE_ERROR
    if not turn.prompt_ids or not turn.output_ids or not turn.logprobs:
        return NO_TOKENS
    return STALE if age > most else None


def _sample(turn: Turn, play: Play, shown: Shown, image_id: int) -> Sample:
    output, logprobs = turn.output_ids or [], turn.logprobs or []
    if len(logprobs) != len(output):
        raise StepFailed(f"{turn.name} has {len(output)} tokens and {len(logprobs)} log-probabilities; each token has one")
    prompt = prompt_of(turn, shown, image_id)
    return Sample(
        key=turn.name,
        ids=(*prompt, *output),
        targets=tuple(range(len(prompt), len(prompt) + len(output))),
        temperature=play.temperature,
        logprobs=np.array(logprobs, np.float32),
    )


def prompt_of(turn: Turn, shown: Shown, image_id: int) -> list[int]:
    """The token ids of a turn's prompt, whose pictures ``shown`` is told of. Raises StepFailed where the two do not fit."""
    prompt = turn.prompt_ids or []
    has, wanted = prompt.count(image_id), shown.add(turn)
    if has != wanted:
        raise StepFailed(f"the prompt of {turn.name} has {has} image tokens, and its {len(turn.pictures)} pictures are {wanted}")
    return prompt


class Shown:
    """Stored frames as the model saw them, made when they are wanted."""

    def __init__(self, pngs: Mapping[str, bytes], play: Play, images: ImageReader) -> None:
        self._pngs, self._upscale_to, self._images = pngs, play.upscale_to, images
        self._frames: dict[str, list[str]] = {}
        self._known: dict[str, Picture] = {}

    def add(self, turn: Turn) -> int:
        """Remember what a turn's prompt shows; gives how many tokens that is. Raises StepFailed where a frame is not stored."""
        self._frames[turn.name] = turn.pictures
        for sha256 in turn.pictures:
            if sha256 not in self._pngs:
                raise StepFailed(f"{turn.name} shows frame {sha256}, and it is not stored")
        return sum(self._tokens(self._pngs[sha256]) for sha256 in turn.pictures)

    def _tokens(self, png: bytes) -> int:
        width, height = struct.unpack(">II", png[16:24])
        size = (self._upscale_to, self._upscale_to) if self._upscale_to is not None else (width, height)
        wide, high = self._images.size(*size)
        step = self._images.patch * self._images.merge
        return wide // step * (high // step)

    def of(self, samples: Iterable[Sample]) -> list[Sample]:
        """The samples with their pictures. Raises StepFailed for bytes that are no picture."""
        return [replace(sample, pictures=tuple(self._pictures(sample.key))) for sample in samples]

    def _pictures(self, key: str) -> Iterator[Picture]:
        for sha256 in self._frames[key]:
            if sha256 not in self._known:
                try:
                    picture = self._read(sha256)
                except InvalidInput as error:
                    raise StepFailed(f"{key} shows frame {sha256}, which cannot be read: {error}") from error
                # many more are shown than have room; what the tower made of them has, so few are ever read again
                self._known[sha256] = replace(picture, make=partial(self._patches, sha256))
            yield self._known[sha256]

    def _read(self, sha256: str) -> Picture:
        return self._images.read(pixels.enlarged(self._pngs[sha256], self._upscale_to, tiles=TILES))

    def _patches(self, sha256: str) -> Patches:
        return self._read(sha256).patches


def _figures(found: Iteration) -> dict[str, float]:
    """Means over episodes, and shares of turns."""
    episodes = found.episodes
    if not episodes:
        return {"episodes": 0.0, "episodes_missing": float(found.missing)}
    turns = [turn for episode in episodes for turn in episode.turns]
    outcomes = Counter(turn.outcome for turn in turns)
    unread = sum(outcomes[outcome] for outcome in (Outcome.PARSE_ERROR, Outcome.NO_TOOL_CALL, Outcome.TRUNCATED))
    rewards = sorted({name for episode in episodes for name in episode.returns})
    return {
        "episodes": float(len(episodes)),
        "episodes_missing": float(found.missing),
        "return": _mean(sum(turn.reward for turn in episode.turns) for episode in episodes),
        "achievements": _mean(episode.unlocked for episode in episodes),
        "turns": _mean(len(episode.turns) for episode in episodes),
        "length": _mean(episode.length for episode in episodes),
        "invalid_share": unread / len(turns),
        **{f"return/{name}": _mean(episode.returns.get(name, 0.0) for episode in episodes) for name in rewards},
        **{f"outcome/{name}": count / len(turns) for name, count in sorted(outcomes.items())},
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _ages(places: Sequence[Place], samples: Sequence[Sample], left_out: Mapping[str, int]) -> dict[str, float]:
    """How old the samples are, how long, and how many turns are none."""
    ages = Counter(place.staleness for place in places)
    return {
        "samples": float(len(samples)),
        "tokens/prompt": float(sum(sample.targets[0] for sample in samples)),
        "tokens/reply": float(sum(len(sample.targets) for sample in samples)),
        **{f"staleness/{age}": float(count) for age, count in sorted(ages.items())},
        **{f"left_out/{why}": float(left_out.get(why, 0)) for why in (ENGINE_ERROR, NO_TOKENS, STALE)},
    }
