"""What a job spends at paid endpoints, and the cap that it never passes.

Before a request the most that it can take is set aside; after its answer the true usage is charged in its place. Each is one
statement on the job's row, so any number of processes may ask at once. These writes are outside the step's fence: a step that was
taken back has spent its money all the same.

The cap holds as long as what is set aside is as much as the request can take. What is set aside for a request whose end nobody
saw (its worker died, its line broke) stays so: it may have been charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from app import db
from app.errors import BudgetSpent
from app.models import Job, Spend
from app.specs.eval import Budget

MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of one request: of its prompt and of its reply."""

    input: int
    output: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.input + self.output


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What is set aside for one request."""

    tokens: int
    usd: float


def cost(tokens: Tokens, *, input_usd_per_million: float | None, output_usd_per_million: float | None) -> float | None:
    """What tokens cost, in US dollars; None where one of the prices is not known."""
    if input_usd_per_million is None or output_usd_per_million is None:
        return None
    return (tokens.input * input_usd_per_million + tokens.output * output_usd_per_million) / MILLION


class JobMeter:
    """Counts what one job spends, and refuses what its budget does not allow."""

    def __init__(self, job_id: str, budget: Budget) -> None:
        self._job_id, self._budget = job_id, budget

    def hold(self, most: Tokens) -> Hold:
        """Set aside the most that a request can take. Raises BudgetSpent when the cap could be passed."""
        budget = self._budget
        hold = Hold(tokens=most.total, usd=self._usd(most))
        if budget.max_tokens is None and budget.max_usd is None:
            return Hold(tokens=0, usd=0.0)
        fits: ColumnElement[bool] = true()
        if budget.max_tokens is not None:
            taken = col(Spend.input_tokens) + col(Spend.output_tokens) + col(Spend.held_tokens)
            fits &= taken + hold.tokens <= budget.max_tokens
        if budget.max_usd is not None:
            fits &= col(Spend.usd) + col(Spend.held_usd) + hold.usd <= budget.max_usd
        with db.writing() as session:
            self._begin(session)
            held = {"held_tokens": col(Spend.held_tokens) + hold.tokens, "held_usd": col(Spend.held_usd) + hold.usd}
            if not self._change(session, held, fits):
                raise self._refusal(session, hold)
        return hold

    def settle(self, hold: Hold, used: Tokens) -> None:
        """Charge what an answered request has taken, in place of what was set aside for it."""
        with db.writing() as session:
            self._begin(session)
            charged = {
                "requests": col(Spend.requests) + 1,
                "input_tokens": col(Spend.input_tokens) + used.input,
                "output_tokens": col(Spend.output_tokens) + used.output,
                "usd": col(Spend.usd) + self._usd(used),
            }
            self._change(session, charged | _without(hold))

    def release(self, hold: Hold) -> None:
        """Give back what was set aside for a request that took nothing."""
        if hold.tokens:
            with db.writing() as session:
                self._change(session, _without(hold))

    def _usd(self, tokens: Tokens) -> float:
        prices = self._budget
        found = cost(
            tokens,
            input_usd_per_million=prices.input_usd_per_million,
            output_usd_per_million=prices.output_usd_per_million,
        )
        return found or 0.0

    def _begin(self, session: Session) -> None:
        """Make the job's row if it has none."""
        dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
        zeros = {"requests": 0, "input_tokens": 0, "output_tokens": 0, "usd": 0.0, "held_tokens": 0, "held_usd": 0.0}
        row = dialect.insert(Spend).values(job_id=self._job_id, **zeros)
        session.connection().execute(row.on_conflict_do_nothing())

    def _change(self, session: Session, values: dict[str, Any], only_if: ColumnElement[bool] | None = None) -> bool:
        """Change the job's row in one statement; False when the condition did not hold."""
        statement = update(Spend).where(col(Spend.job_id) == self._job_id)
        if only_if is not None:
            statement = statement.where(only_if)
        return session.connection().execute(statement.values(**values)).rowcount == 1

    def _refusal(self, session: Session, hold: Hold) -> BudgetSpent:
        row, budget = session.get_one(Spend, self._job_id), self._budget
        used = row.input_tokens + row.output_tokens
        fits_alone = (budget.max_tokens is None or used + hold.tokens <= budget.max_tokens) and (
            budget.max_usd is None or row.usd + hold.usd <= budget.max_usd
        )
        if budget.max_tokens is not None and used + row.held_tokens + hold.tokens > budget.max_tokens:
            what = f"{used:,} of max_tokens = {budget.max_tokens:,} are spent"
            aside = f", {row.held_tokens:,} are set aside for other requests" if row.held_tokens else ""
            following, key = f"the next request could take {hold.tokens:,}", "max_tokens"
        else:
            what = f"${row.usd:.4f} of max_usd = {budget.max_usd:g} are spent"
            aside = f", ${row.held_usd:.4f} are set aside for other requests" if row.held_tokens else ""
            following, key = f"the next request could cost ${hold.usd:.4f}", "max_usd"
        return BudgetSpent(
            f"the budget is used up: {what}{aside}, and {following}; "
            f"what was played is kept; to go further submit the job again with a higher eval.budget.{key}",
            for_now=fits_alone,
        )


def _without(hold: Hold) -> dict[str, Any]:
    """The row's columns when a hold is taken off."""
    return {"held_tokens": col(Spend.held_tokens) - hold.tokens, "held_usd": col(Spend.held_usd) - hold.usd}


def spent(session: Session, job_id: str, budget: Budget) -> dict[str, Any]:
    """What a job has spent so far. ``usd`` is None without prices; ``held_*`` is what unanswered requests may have taken."""
    return _told(session.get(Spend, job_id) or Spend(job_id=job_id), budget)


def spent_of(session: Session, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """What each of the jobs has spent so far, as ``spent`` tells it, by id. A job that set nothing aside is not in it."""
    budgets = {job.id: Budget.model_validate(job.spec["eval"].get("budget") or {}) for job in jobs if job.kind == "eval"}
    if not budgets:
        return {}
    query = select(Spend).where(col(Spend.job_id).in_(budgets)).execution_options(populate_existing=True)
    return {row.job_id: _told(row, budgets[row.job_id]) for row in session.scalars(query)}


def _told(row: Spend, budget: Budget) -> dict[str, Any]:
    priced = budget.input_usd_per_million is not None and budget.output_usd_per_million is not None
    return {
        "requests": row.requests,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "usd": round(row.usd, 6) if priced else None,
        "held_tokens": row.held_tokens,
        "held_usd": round(row.held_usd, 6) if priced else None,
        "max_usd": budget.max_usd,
        "max_tokens": budget.max_tokens,
    }
