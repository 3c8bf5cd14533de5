"""What a job may spend: set aside before, charged after, and never beyond the cap, whoever asks at the same time."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from core.kit import python, submit_eval, submit_noop, write
from sqlmodel import select

from app import db
from app.errors import BudgetSpent
from app.models import Spend
from app.specs.eval import Budget
from app.store.spending import JobMeter, Tokens, cost, spent, spent_of

PRICES = {"input_usd_per_million": 2.5, "output_usd_per_million": 10.0}


def row(job_id: str) -> Spend:
    with db.reading() as session:
        found = session.get(Spend, job_id)
        assert found is not None
        session.expunge(found)
        return found


def tokens(given: int, taken: int) -> Tokens:
    return Tokens(input=given, output=taken)


def test_what_was_set_aside_is_replaced_by_what_was_used(store: str) -> None:
    job_id = submit_noop().id
    meter = JobMeter(job_id, Budget(max_usd=1.0, **PRICES))
    hold = meter.hold(tokens(100_000, 10_000))
    assert (row(job_id).held_tokens, row(job_id).held_usd) == (110_000, pytest.approx(0.35))
    meter.settle(hold, tokens(40_000, 1_000))
    after = row(job_id)
    assert (after.requests, after.input_tokens, after.output_tokens) == (1, 40_000, 1_000)
    assert (after.usd, after.held_tokens, after.held_usd) == (pytest.approx(0.11), 0, pytest.approx(0))


def test_what_was_not_answered_is_given_back_or_stays_set_aside(store: str) -> None:
    job_id = submit_noop().id
    meter = JobMeter(job_id, Budget(max_tokens=1000))
    meter.release(meter.hold(tokens(900, 100)))
    meter.hold(tokens(300, 100))  # its worker died
    words = "0 of max_tokens = 1,000 are spent, 400 are set aside for other requests, and the next request could take 601; "
    with pytest.raises(BudgetSpent, match=words) as told:
        meter.hold(tokens(600, 1))
    assert told.value.for_now, "the 400 may turn out to be fewer"
    meter.settle(meter.hold(tokens(500, 100)), tokens(500, 100))
    with pytest.raises(BudgetSpent, match="600 of max_tokens") as told:
        meter.hold(tokens(401, 0))
    assert not told.value.for_now


def test_the_cap_may_be_reached_and_not_passed(store: str) -> None:
    meter = JobMeter(submit_noop().id, Budget(max_usd=0.05, **PRICES))
    meter.settle(meter.hold(tokens(20_000, 0)), tokens(20_000, 0))
    with pytest.raises(BudgetSpent, match=r"\$0.0500 of max_usd = 0.05 are spent, and the next request could cost \$0.0000"):
        meter.hold(tokens(1, 0))


def test_without_a_cap_everything_is_counted_and_nothing_refused(store: str) -> None:
    job_id = submit_noop().id
    meter = JobMeter(job_id, Budget())
    for _ in range(3):
        meter.settle(meter.hold(tokens(10**9, 10**9)), tokens(10**10, 5))
    with db.reading() as session:
        told = spent(session, job_id, Budget())
    assert told == {
        "requests": 3,
        "input_tokens": 3 * 10**10,
        "output_tokens": 15,
        "usd": None,
        "held_tokens": 0,
        "held_usd": None,
        "max_usd": None,
        "max_tokens": None,
    }


def test_a_job_that_asked_nothing_has_spent_nothing(store: str) -> None:
    with db.reading() as session:
        told = spent(session, submit_noop().id, Budget(max_usd=1, **PRICES))
    assert (told["requests"], told["usd"], told["max_usd"]) == (0, 0.0, 1.0)


def test_what_many_jobs_have_spent_is_told_at_once_and_nothing_of_those_without_a_purse(store: str) -> None:
    capped = submit_eval(policies=["random"], budget={"max_tokens": 500})
    jobs = [capped, submit_eval(policies=["random"]), submit_noop()]
    JobMeter(capped.id, Budget(max_tokens=500)).hold(tokens(300, 100))
    with db.reading() as session:
        told = spent_of(session, jobs)
        assert told == {capped.id: spent(session, capped.id, Budget(max_tokens=500))}
        assert spent_of(session, []) == {}
    assert told[capped.id].items() >= {"requests": 0, "held_tokens": 400, "max_tokens": 500}.items()


def test_jobs_have_purses_of_their_own_and_leave_none_behind(store: str) -> None:
    first, second = submit_noop().id, submit_noop().id
    for job_id in (first, second):
        meter = JobMeter(job_id, Budget(max_tokens=10))
        meter.settle(meter.hold(tokens(10, 0)), tokens(10, 0))
    write("DELETE FROM job WHERE id = :id", id=first)
    with db.reading() as session:
        assert [row.job_id for row in session.exec(select(Spend))] == [second]


def test_a_price_that_is_not_known_makes_no_cost() -> None:
    assert cost(tokens(1_000_000, 1_000_000), **PRICES) == 12.5
    assert cost(tokens(1, 1), input_usd_per_million=None, output_usd_per_million=1.0) is None


# Many at once.

CAP_TOKENS, CAP_USD = 20_000, 0.08


def race(job_id: str, seed: int) -> int:
    """Ask until nothing is allowed any more: some are answered, some fail, some are never heard of; gives the answered."""
    meter = JobMeter(job_id, Budget(max_tokens=CAP_TOKENS, max_usd=CAP_USD, **PRICES))
    draw, answered = random.Random(seed), 0
    for _ in range(1000):
        most = tokens(draw.randint(50, 400), draw.randint(1, 50))
        try:
            hold = meter.hold(most)
        except BudgetSpent as spent:
            if spent.for_now and draw.random() < 0.9:
                continue
            return answered
        fate = draw.random()
        if fate < 0.8:
            meter.settle(hold, tokens(draw.randint(1, most.input), draw.randint(0, most.output)))
            answered += 1
        elif fate < 0.98:
            meter.release(hold)
    raise AssertionError("the cap did not end it")


def never_above(job_id: str, answered: int) -> None:
    after = row(job_id)
    assert after.requests == answered > 20
    assert after.input_tokens + after.output_tokens + after.held_tokens <= CAP_TOKENS
    assert after.usd + after.held_usd <= CAP_USD + 1e-9
    assert after.usd == pytest.approx((after.input_tokens * 2.5 + after.output_tokens * 10) / 1e6)
    assert after.input_tokens + after.output_tokens + after.held_tokens > CAP_TOKENS * 0.9 or after.usd > CAP_USD * 0.9


def test_eight_threads_on_one_cap_never_pass_it(store: str) -> None:
    job_id = submit_noop().id
    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(lambda seed: race(job_id, seed), range(8)))
    never_above(job_id, answered)


def test_processes_on_one_cap_never_pass_it(store: str, own_home: Path) -> None:
    job_id = submit_noop().id
    words = "import sys; from test_openai_spending import race; print(race(sys.argv[1], int(sys.argv[2])))"
    path = str(Path(__file__).resolve().parent)
    racers = [python("-c", words, job_id, str(i), log=own_home / f"race-{i}.log", PYTHONPATH=path) for i in range(4)]
    assert [racer.wait(60) for racer in racers] == [0] * 4, "\n".join(racer.said() for racer in racers)
    never_above(job_id, sum(int(racer.said()) for racer in racers))
