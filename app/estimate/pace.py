"""How fast trainings and play of the same model went here before, and what they took: from what they left in the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func
from sqlmodel import Session, col, select

from app.estimate.memory import Device
from app.estimate.model import Known, known
from app.models import FOLDER_KINDS, Artifact, Episode, Job, Metric, ModelUse, Step, StepState
from app.plots.play import PLAY

LOOKED_AT: Final = 50
"""Newest jobs of a kind that are looked at."""
UPDATES: Final = 8
"""Newest updates of a job that its pace is taken from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How many units a second, and whose they were."""

    per_s: float
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known from earlier jobs with a model; None: nothing was measured."""

    learns: Rate | None = None
    """Samples."""
    plays: Rate | None = None
    """Turns."""
    updates: Rate | None = None
    """Samples of whole updates of rl jobs: scored, learnt from, saved and published."""
    peak: Rate | None = None
    """Most bytes that a trainer took, the program with it."""
    device: Device | None = None
    tokens: float | None = None
    """Of a sample, on average."""
    tokens_job: str = ""


class Past:
    """Earlier jobs, as far as their model is the one that is asked about, or one of the same sizes."""

    def __init__(self, session: Session, base: str, model: Known | None) -> None:
        self._session, self._base, self._model = session, base, model
        self._alike: dict[str, bool] = {base: True}

    def of_sft(self, mode: str) -> Measured:
        """What trainings from data in a mode told."""
        rows = self._session.exec(
            select(Artifact)
            .where(col(Artifact.kind).in_(FOLDER_KINDS))
            .order_by(col(Artifact.created_at).desc())
            .limit(LOOKED_AT)
        )
        for row in rows:
            told: Any = row.data.get("result")
            if not isinstance(told, dict) or told.get("trainer_mode") != mode or not self._is_alike(str(row.data.get("base"))):
                continue
            rate, samples = _number(told.get("samples_per_s")), _number(told.get("samples_learnt"))
            tokens, peak = _number(told.get("tokens")), _number(told.get("memory_bytes"))
            return Measured(
                learns=None if not rate else Rate(per_s=rate, job=row.job_id),
                peak=None if not peak else Rate(per_s=peak, job=row.job_id),
                device="cpu" if told.get("device") == "cpu" else "gpu",
                tokens=tokens / samples if tokens and samples else None,
                tokens_job=row.job_id,
            )
        return Measured()

    def of_rl(self) -> Measured:
        """What the newest rl job that has made updates told."""
        for job_id in self._played("rl"):
            rows = self._updates(job_id)
            if not rows:
                continue
            seconds = sum((row.get("seconds/call") or 0) + (row.get("seconds/publish") or 0) for row in rows)
            samples, tokens = _sum(rows, "samples"), _sum(rows, "tokens/prompt") + _sum(rows, "tokens/reply")
            on_gpu = any("memory/gpu_peak_mib" in row for row in rows)
            peaks = [_number(row.get("memory/gpu_peak_mib" if on_gpu else "memory/peak_mib")) or 0.0 for row in rows]
            turns_per_s = self._turns_per_s(job_id)
            return Measured(
                updates=Rate(per_s=samples / seconds, job=job_id) if samples and seconds else None,
                plays=Rate(per_s=turns_per_s, job=job_id) if turns_per_s else None,
                peak=Rate(per_s=max(peaks) * 1024**2, job=job_id) if any(peaks) else None,
                device="gpu" if on_gpu else "cpu",
                tokens=tokens / samples if samples else None,
                tokens_job=job_id,
            )
        return Measured()

    def of_eval(self) -> Rate | None:
        """How fast the newest eval of the model alone went."""
        for job_id in self._played("eval"):
            job = self._session.get_one(Job, job_id)
            rate = _number((job.summary or {}).get("turns_per_s"))
            if rate and job.spec["eval"]["policies"] and all(p.startswith("model:") for p in job.spec["eval"]["policies"]):
                return Rate(per_s=rate, job=job_id)
        return None

    def spec_of(self, job_id: str) -> dict[str, Any]:
        """The resolved spec of a job."""
        return self._session.get_one(Job, job_id).spec

    def _played(self, kind: str) -> Iterator[str]:
        query = select(ModelUse.job_id, ModelUse.base).join(Job, col(Job.id) == ModelUse.job_id).where(Job.kind == kind)
        for job_id, base in self._session.exec(query.order_by(col(Job.created_at).desc()).limit(LOOKED_AT)).all():
            if self._is_alike(base):
                yield job_id

    def _is_alike(self, base: str) -> bool:
        if base not in self._alike:
            other = known(base) if self._model is not None else None
            self._alike[base] = other is not None and self._model is not None and other.geometry == self._model.geometry
        return self._alike[base]

    def _updates(self, job_id: str) -> list[Mapping[str, float | None]]:
        query = select(Metric.values).where(Metric.job_id == job_id, Metric.scope == "update")
        return list(self._session.exec(query.order_by(col(Metric.index).desc()).limit(UPDATES)).all())

    def _turns_per_s(self, job_id: str) -> float | None:
        """Turns of the newest iterations that were played, by the time from the first step's begin to the last one's end."""
        query = select(Step).where(Step.job_id == job_id, Step.kind == PLAY, Step.state == StepState.SUCCEEDED)
        spans: dict[int, list[float]] = {}
        for step in self._session.exec(query.order_by(col(Step.position).desc()).limit(20 * UPDATES)):
            if step.started_at is not None and step.finished_at is not None:
                at = step.payload["episodes"][0][0]
                begun, ended = spans.get(at, [step.started_at, step.finished_at])
                spans[at] = [min(begun, step.started_at), max(ended, step.finished_at)]
        newest = sorted(spans)[-UPDATES:]
        counted = select(func.sum(Episode.turns)).where(Episode.job_id == job_id, col(Episode.iteration).in_(newest))
        turns, seconds = self._session.exec(counted).one(), sum(spans[at][1] - spans[at][0] for at in newest)
        return float(turns) / seconds if turns and seconds > 0 else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _sum(rows: Sequence[Mapping[str, float | None]], name: str) -> float:
    return sum(row.get(name) or 0.0 for row in rows)
