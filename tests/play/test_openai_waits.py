"""How long to wait: the words of servers, and our own backoff."""

from __future__ import annotations

import pytest

from workers.rollout.policies.openai.waits import FIRST_S, LONGEST_S, SPREAD_S, backoff_s, pause_s, seconds, told_s

NOW = 1_764_000_000.0
"""2025-11-24 16:00:00 UTC."""


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        (" 7 ", 7.0),
        ("1s", 1.0),
        ("20ms", 0.02),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("1d", 86400.0),
        ("Mon, 24 Nov 2025 16:00:05 GMT", 5.0),
        ("Mon, 24 Nov 2025 15:59:00 GMT", 0.0),
        ("2025-11-24T16:00:05Z", 5.0),
        ("2025-11-24T17:00:05+01:00", 5.0),
        ("1764000005", 5.0),
        ("1764000005000", 5.0),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("nan", None),
        ("inf", None),
        ("1s later", None),
        ("6 m", None),
        ("9" * 400, None),
    ],
)
def test_a_wait_is_read_in_every_form(text: str, wait: float | None) -> None:
    found = seconds(text, now=NOW)
    assert found == (None if wait is None else pytest.approx(wait, abs=1e-3))


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "3", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "3", "x-ratelimit-reset-requests": "60s"}, 3.0),
        ({"retry-after": "later", "x-ratelimit-reset-requests": "60s"}, 60.0),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "20ms"}, 1.0),
        (
            {
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-tokens": "2s",
                "x-ratelimit-remaining-tokens": "0",
            },
            2.0,
        ),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "59"}, None),
        ({"anthropic-ratelimit-requests-reset": "2025-11-24T16:00:09Z", "anthropic-ratelimit-requests-remaining": "0"}, 9.0),
        ({"x-ratelimit-reset": "1764000004000", "x-ratelimit-remaining": "0"}, 4.0),
    ],
)
def test_the_plainest_header_counts_and_limits_that_are_not_used_up_do_not(headers: dict[str, str], wait: float | None) -> None:
    assert told_s(headers, now=NOW) == (None if wait is None else pytest.approx(wait))


def test_the_backoff_doubles_to_its_bound_and_is_spread_by_the_draw() -> None:
    assert [backoff_s(attempt, 1.0) / FIRST_S for attempt in (1, 2, 3)] == [1, 2, 4]
    assert backoff_s(3, 0.0) == backoff_s(3, 1.0) / 2
    assert backoff_s(10_000, 1.0) == LONGEST_S


def test_a_wait_that_was_asked_for_is_never_cut_short() -> None:
    assert pause_s(1, 0.0, 5.0) == 5.0
    assert 5.0 < pause_s(9, 1.0, 5.0) <= 5.0 + SPREAD_S
    assert pause_s(2, 0.5, None) == backoff_s(2, 0.5)
