"""A round of DAgger, as the trainer sees it: the prompts that were played, the expert's replies to them, and imitation of those.

A prompt is taken as it was sampled from, token by token. A reply is tokenised as a line of training data is, its end included,
and is all that is learnt of the turn. What the model itself said counts for nothing but the figure of how often it agreed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlmodel import Session, col, select

from app import artifacts, db
from app.errors import StepFailed
from app.models import Artifact
from app.specs.dagger import LABELS, DaggerTable
from workers.model.loading import Loaded
from workers.trainer.learner import Learner, Tally
from workers.trainer.rl import stored
from workers.trainer.rl.collect import Shown, prompt_of
from workers.trainer.rl.options import Imitate, Play
from workers.trainer.rl.phases import Phases
from workers.trainer.rl.stored import Iteration, Turn
from workers.trainer.samples import Sample
from workers.trainer.sft.lines import reply_ids
from workers.trainer.sft.order import steps_of
from workers.trainer.sft.training import imitation
from workers.transport import chat

UNASKED, UNLABELLED, TOO_LONG = "unasked", "unlabelled", "too_long"
"""Why a turn is no lesson: its prompt never reached an engine; nobody asked the expert; the expert's reply does not fit."""
MOST_EPOCHS: Final = 64
"""Of one round; numbers the passes of all rounds without a number coming twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What the expert said of a turn, and what the model had said."""

    message: Mapping[str, Any]
    """The assistant's message in OpenAI's format."""
    actions: tuple[str, ...]
    said: tuple[str, ...] | None
    """The model's actions: none where its reply could not be read; None where no reply came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What a round learns from."""

    samples: tuple[Sample, ...]
    """By round, seed, member and turn; without their pictures, which ``shown`` has."""
    shown: Shown
    figures: Mapping[str, float]
    warnings: tuple[str, ...]


def gather(job_id: str, iteration: int, how: Imitate, play: Play, loaded: Loaded) -> Lessons:
    """The turns that the round ``iteration`` learns from, those of earlier rounds among them where the spec says so.

    Raises StepFailed where a turn is not what it was, and where not one of the expert's replies can be said in play.
    """
    rounds = range(0 if how.table.aggregate else iteration, iteration + 1)
    with db.reading() as session:
        played = [stored.read(session, job_id, each, play.split) for each in rounds]
        wanted = {sha256 for each in played for episode in each.episodes for turn in episode.turns for sha256 in turn.pictures}
        pngs = stored.frames(session, wanted)
        files = _files(session, job_id, rounds)
        session.expunge_all()
    words = {key: word for file in files for key, word in _words(file)}
    made = _Maker(Shown(pngs, play, loaded.images), how, loaded)
    samples = [sample for each in played for turn in _turns(each) if (sample := made.sample(turn, words)) is not None]
    out = made.left_out
    if not samples and out[TOO_LONG]:
        raise StepFailed(f"{made.too_long()}, so there is nothing to imitate; raise it, or ask for shorter replies")
    figures = {
        **_agreement(_turns(played[-1]), words, several=how.max_actions > 1),
        "lessons": float(len(samples)),
        **{f"left_out/{why}": float(out[why]) for why in (UNASKED, UNLABELLED, TOO_LONG)},
    }
    warnings = [f"{made.too_long()}; they are left out"] if out[TOO_LONG] else []
    if out[UNLABELLED]:
        warnings.append(f"{out[UNLABELLED]} turns have no word of the expert's, and are left out")
    return Lessons(samples=tuple(samples), shown=made.shown, figures=figures, warnings=tuple(warnings))


def _files(session: Session, job_id: str, rounds: Iterable[int]) -> list[Artifact]:
    """What the expert said of these iterations, the oldest first: a job that is tried again asks again."""
    query = select(Artifact).where(Artifact.job_id == job_id, Artifact.kind == LABELS)
    rows = session.exec(query.order_by(col(Artifact.created_at), col(Artifact.id))).all()
    wanted = set(rounds)
    return [row for row in rows if row.data["iteration"] in wanted]


def _words(file: Artifact) -> Iterable[tuple[tuple[str, int], Word]]:
    """By episode and turn."""
    for line in artifacts.read_artifact(file).splitlines():
        told = json.loads(line)
        said = None if told["said"] is None else tuple(told["said"])
        yield (told["episode"], told["turn"]), Word(message=told["message"], actions=tuple(told["actions"]), said=said)


def _turns(played: Iteration) -> list[Turn]:
    return [turn for episode in played.episodes for turn in episode.turns]


class _Maker:
    """Makes the samples of turns, and counts those that are none."""

    def __init__(self, shown: Shown, how: Imitate, loaded: Loaded) -> None:
        self.shown, self._how, self._loaded = shown, how, loaded
        self.left_out: Counter[str] = Counter()
        self._end: Any = loaded.tokenizer.convert_tokens_to_ids(chat.END)
        self._replies: dict[str, tuple[int, ...]] = {}
        self._longest = 0

    def sample(self, turn: Turn, words: Mapping[tuple[str, int], Word]) -> Sample | None:
        """A turn's sample; None where it is none."""
        word = words.get((turn.episode_id, turn.index))
        if not turn.prompt_ids or word is None:
            self.left_out[UNLABELLED if turn.prompt_ids else UNASKED] += 1
            return None
        reply = self._reply(word.message)
        ids = (*prompt_of(turn, self.shown, self._loaded.image_id), *reply)
        said = len(reply) - 1  # an engine that stops at its limit has not said the end, and is understood all the same
        if said > self._how.max_tokens or len(ids) > self._loaded.max_length:
            self.left_out[TOO_LONG] += 1
            self._longest = max(self._longest, said)
            return None
        return Sample(key=turn.name, ids=ids, targets=tuple(range(len(turn.prompt_ids), len(ids))))

    def _reply(self, message: Mapping[str, Any]) -> tuple[int, ...]:
        key = json.dumps(message, sort_keys=True)
        if key not in self._replies:
            self._replies[key] = tuple(reply_ids(self._loaded.tokenizer, self._end, message))
        return self._replies[key]

    def too_long(self) -> str:
        """How many replies do not fit, as a sentence begins."""
        return (
            f"{self.left_out[TOO_LONG]} replies of the expert, of up to {self._longest} tokens, do not fit: "
            f"rollout.policy_config.max_tokens is {self._how.max_tokens}, and the model takes {self._loaded.max_length} tokens "
            "with the prompt"
        )


def _agreement(turns: Sequence[Turn], words: Mapping[tuple[str, int], Word], *, several: bool) -> dict[str, float]:
    """In which share of the turns that were replied to the model said what the expert says; and where a reply may hold
    ``several`` actions, in which share it began so. A reply that could not be read never does."""
    found = (words.get((turn.episode_id, turn.index)) for turn in turns)
    pairs = [(word.said, word.actions) for word in found if word is not None and word.said is not None]
    if not pairs:
        return {}
    told = {"agreement": float(np.mean([said == actions for said, actions in pairs]))}
    if several:
        told["agreement/first"] = float(np.mean([said[:1] == actions[:1] for said, actions in pairs]))
    return told


def train(
    learner: Learner, lessons: Lessons, table: DaggerTable, phases: Phases, *, seed: int, iteration: int
) -> dict[str, float]:
    """All passes over the lessons; gives the figures of them. The mean of the targets of a step is what is learnt."""
    lengths, steps, tally = [len(sample.ids) for sample in lessons.samples], list[dict[str, float]](), Tally()
    with phases("train", total=table.epochs * len(lengths)):
        for number in range(table.epochs):
            epoch = iteration * MOST_EPOCHS + number
            for places in steps_of(lengths, seed=seed, epoch=epoch, batch=table.batch_size, batches=1):
                samples = lessons.shown.of(lessons.samples[place] for place in places)
                tally = tally.plus(learner.accumulate(samples, imitation, scale=1 / sum(len(each.targets) for each in samples)))
                steps.append(learner.step())
                phases.done(len(samples))
    told = {"optimizer_steps": float(len(steps)), "samples_trained": float(tally.samples)}
    if not steps:
        return told
    seconds = phases.seconds("train")
    return {
        **told,
        "loss": tally.loss / len(steps),
        "accuracy": tally.figures["right"] / tally.targets,
        "entropy": tally.figures["entropy"] / tally.targets,
        "grad_norm": float(np.mean([step["grad_norm"] for step in steps])),
        "learning_rate": steps[-1]["learning_rate"],
        "samples_per_s": tally.samples / seconds if seconds else 0.0,
        "tokens_per_s": tally.tokens / seconds if seconds else 0.0,
        "padding_share": 1 - tally.tokens / tally.padded if tally.padded else 0.0,
    }
