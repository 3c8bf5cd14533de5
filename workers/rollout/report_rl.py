"""The data steps of an rl job: the score of one evaluation as soon as it was played, and the report at the end.

An evaluation is scored by the code that scores an eval, so its figures mean the same. ``eval/<i>`` is what the model came to
after ``i`` updates, played with version ``i + 1`` of the adapter. As the best counts the evaluation with the most achievements,
of equal ones the latest. What was played with black pictures stands beside the evaluation that saw, and counts for nothing else.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlmodel import Session

from app import artifacts, db
from app.models import Episode
from app.plots.rl import blank_of, evaluation_of
from app.scores import paired_difference, summarise
from app.specs.rl import EVALUATION, RlSpec
from app.store import events, metrics
from workers.rollout import envs
from workers.rollout.play import PlayOptions
from workers.rollout.report import cost, episodes_of_job, result, score, seconds_of, summed
from workers.runner import StepContext

SCOPE: Final = "eval"
"""Of the metrics of evaluations; the index is the number of updates before."""
UPDATE: Final = "update"
"""Scope of the metrics of updates, which the trainer writes."""
ROUND: Final = ("agreement", "lessons", "loss", "accuracy", "entropy")
"""Those of them that tell how a round of DAgger went."""
FIGURES: Final = ("achievements", "progress", "return", "length", "crafter_score")
BLIND: Final = ("achievements", "return")
"""Those that are told of play with black pictures."""


def score_one(context: StepContext) -> dict[str, Any]:
    """Score the evaluation after so many updates, and tell it in the job's events and metrics."""
    spec: RlSpec = context.spec
    iteration: int = context.payload["iteration"]
    with db.reading() as session:
        rows = episodes_of_job(session, context, iteration)
    point = _point(spec, iteration, _tried(spec, rows), _blank(spec, rows))
    with context.write() as session:
        metrics.record(session, context.job_id, SCOPE, iteration, _plain(point))
        message = f"after {iteration} update{'s' * (iteration != 1)}: {_told(point)}"
        events.append(session, context.job_id, "rl.evaluated", message, step_id=context.step_id, data={"point": point})
        _warn(session, context, point)
    return point


def run(context: StepContext) -> dict[str, Any]:
    """Score every evaluation, store ``report.json``, and give the job's summary."""
    spec: RlSpec = context.spec
    updates: int = context.payload["iterations"]
    with db.reading() as session:
        rows = episodes_of_job(session, context)
        seconds = seconds_of(session, context.job_id)
        measured = {row.index: row.values for row in metrics.series(session, context.job_id, UPDATE)}
    context.check()
    tried, blank = _by_iteration(_tried(spec, rows)), _by_iteration(_blank(spec, rows))
    curve = [_point(spec, iteration, mine, blank.get(iteration, ())) for iteration, mine in tried.items()]
    seeds = frozenset(spec.evaluation.played)
    learnt = _by_iteration([row for row in rows if row.seed not in seeds])
    told = {
        "iterations": {"asked": spec.iterations, "done": updates - spec.begun, "begun": spec.begun},
        "stopped": context.payload["stopped"],
        "curve": curve,
        "best": _best(curve),
        "gain": _gain(spec, tried),
        **({"dagger": _rounds(spec, measured)} if spec.rounds else {}),
        "episodes": dict(Counter(row.state for row in rows)),
        **({"begun_later": _begun_later(rows)} if spec.starts else {}),
        **cost(rows, seconds),
    }
    whole = {
        **told,
        "play": [_play(spec, iteration, mine) for iteration, mine in learnt.items()],
        "results": [{"iteration": row.iteration, **result(row)} for row in rows],
    }
    path = context.workdir / "report.json"
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    artifact = artifacts.store_file(path, job_id=context.job_id, step_id=context.step_id, kind="report", name="report.json")
    context.check()
    with context.write() as session:
        artifact = artifacts.record(session, artifact)
        for point in curve:
            metrics.record(session, context.job_id, SCOPE, point["iteration"], _plain(point))
        if curve and curve[-1]["iteration"] == updates:  # of those before, their scores have told
            _warn(session, context, curve[-1])
    return {**told, "report": artifact.id}


def _rounds(spec: RlSpec, measured: Mapping[int, Mapping[str, float | None]]) -> dict[str, Any]:
    """What the trainer measured of each round of DAgger; ``agreement``: how often the model did as the expert says, before it."""
    rounds = [(at, measured[at]) for at in range(spec.dagger.rounds) if at in measured]
    return {
        "expert": spec.dagger.expert,
        "rounds": [{"iteration": at, **{name: values.get(name) for name in ROUND}} for at, values in rounds],
    }


def _tried(spec: RlSpec, rows: Sequence[Episode]) -> list[Episode]:
    """Episodes of evaluations; no seed of theirs is one of training."""
    seeds = frozenset(spec.evaluation.played)
    return [row for row in rows if row.seed in seeds and row.split != spec.data.blank_split]


def _blank(spec: RlSpec, rows: Sequence[Episode]) -> list[Episode]:
    """Episodes in which the model was tried with black pictures."""
    return [row for row in rows if row.split == spec.data.blank_split]


def _by_iteration(rows: Sequence[Episode]) -> dict[int, list[Episode]]:
    found: dict[int, list[Episode]] = defaultdict(list)
    for row in rows:
        found[row.iteration].append(row)
    return dict(sorted(found.items()))


def _point(spec: RlSpec, iteration: int, rows: Sequence[Episode], blank: Sequence[Episode]) -> dict[str, Any]:
    """One evaluation: its figures, each with its interval, over the episodes that were played to their end.

    ``blank``: episodes of the same seeds with black pictures, where there are any.
    """
    options = PlayOptions.of(spec, EVALUATION)
    names = envs.make(options.env, dict(options.env_config)).achievements
    done = [row for row in rows if row.state == "done"]
    figures = summarise([score(row) for row in done], names)
    return {
        "iteration": iteration,
        "version": iteration + 1,
        "episodes": len(done),
        "asked": len(evaluation_of(spec, iteration)),
        **{name: figures[name] for name in FIGURES},
        "reward": _mean([row.returns.get(options.reward, 0.0) for row in done]),
        "outcomes": summed(row.outcomes for row in done),
        "confidence": figures["confidence"],
        "achievement_rates": figures["achievement_rates"],
        **({"blank": _blind(spec, iteration, done, blank, names)} if blank else {}),
    }


def _blind(
    spec: RlSpec, iteration: int, seen: Sequence[Episode], rows: Sequence[Episode], names: Sequence[str]
) -> dict[str, Any]:
    """What the model comes to with black pictures; ``gap``: how much more it does with true ones, seed by seed."""
    done = [score(row) for row in rows if row.state == "done"]
    figures = summarise(done, names)
    return {
        "episodes": len(done),
        "asked": len(blank_of(spec, iteration)),
        **{name: figures[name] for name in BLIND},
        "gap": paired_difference(done, [score(row) for row in seen], metrics=BLIND),
    }


def as_well_blind(point: Mapping[str, Any]) -> str | None:
    """A sentence about a model that does as well with black pictures as with true ones, as far as can be seen; else None."""
    blank = point.get("blank")
    if blank is None or not (seeds := blank["gap"]["seeds"]):
        return None
    gaps = [blank["gap"][name] for name in BLIND]
    if any((gap["mean"] if gap["low"] is None else gap["low"]) > 0 for gap in gaps):
        return None
    more, updates = gaps[0], point["iteration"]
    between = f" [{more['low']:.2f}, {more['high']:.2f}]" if more["low"] is not None else ""
    return (
        f"after {updates} update{'s' * (updates != 1)} black pictures do as well as true ones, as far as {seeds} "
        f"seed{'s' * (seeds != 1)} can tell: {blank['achievements']['mean']:.2f} achievements, and with true ones "
        f"{more['mean']:.2f}{between} more; the model hardly uses what it sees, or more evaluation.seeds are needed to tell"
    )


def _warn(session: Session, context: StepContext, point: Mapping[str, Any]) -> None:
    """Tell of a model that does not use what it sees."""
    if (message := as_well_blind(point)) is None:
        return
    data = {"iteration": point["iteration"], "blank": point["blank"]}
    events.append(session, context.job_id, "rl.blind", message, level="warning", step_id=context.step_id, data=data)


def _play(spec: RlSpec, iteration: int, rows: Sequence[Episode]) -> dict[str, Any]:
    """What was learnt from in one iteration."""
    done = [row for row in rows if row.state == "done"]
    return {
        "iteration": iteration,
        "episodes": len(done),
        "failed": sum(row.state == "failed" for row in rows),
        "begun_later": _begun_later(rows),
        "reward": _mean([row.returns.get(spec.rollout.reward, 0.0) for row in done]),
        "achievements": _mean([float(row.unlocked) for row in done]),
        "outcomes": summed(row.outcomes for row in done),
    }


def _begun_later(rows: Sequence[Episode]) -> int:
    """Episodes that were played to their end from the middle of another one; what they came to is counted from there."""
    return sum(row.state == "done" and row.start is not None for row in rows)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _best(curve: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Iteration and version of the best evaluation that is whole; of any, where none is."""
    points = [point for point in curve if point["episodes"]]
    whole = [point for point in points if point["episodes"] == point["asked"]] or points
    if not whole:
        return None
    best = max(whole, key=lambda point: (point["achievements"]["mean"], point["iteration"]))
    return {key: best[key] for key in ("iteration", "version", "achievements")}


def _gain(spec: RlSpec, tried: dict[int, list[Episode]]) -> dict[str, Any] | None:
    """What the last evaluation has more than the first, seed by seed."""
    played = {at: [score(row) for row in rows if row.state == "done"] for at, rows in tried.items()}
    whole = [at for at, scores in played.items() if scores]
    if len(whole) < 2:
        return None
    return {"from": whole[0], "to": whole[-1], **paired_difference(played[whole[0]], played[whole[-1]])}


def _plain(point: dict[str, Any]) -> dict[str, float | None]:
    """An evaluation's figures as metrics, with the ends of their intervals."""
    values: dict[str, float | None] = {"episodes": point["episodes"], "reward": point["reward"]}
    for name in FIGURES:
        values |= {name: point[name]["mean"], f"{name}/low": point[name].get("low"), f"{name}/high": point[name].get("high")}
    turns = sum(point["outcomes"].values())
    values["invalid_share"] = 1 - point["outcomes"].get("ok", 0) / turns if turns else None
    if (blank := point.get("blank")) is not None:
        for name in BLIND:
            for key, figure in ((f"blank/{name}", blank[name]), (f"blank_gap/{name}", blank["gap"][name])):
                values |= {key: figure["mean"], f"{key}/low": figure.get("low"), f"{key}/high": figure.get("high")}
    return values


def _told(point: dict[str, Any]) -> str:
    mean = point["achievements"]["mean"]
    count = f"{point['episodes']} of {point['asked']} episodes"
    blind = ((point.get("blank") or {}).get("achievements") or {}).get("mean")
    told = f"{mean:.2f} achievements in {count}" if mean is not None else f"{count}, so no score"
    return told if blind is None else f"{told}; {blind:.2f} with black pictures"
