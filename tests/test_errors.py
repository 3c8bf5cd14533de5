"""The page about errors tells what the code does, and every problem leads to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app import errors_page
from app.errors import SynthqError
from app.main import create_app
from cli.client import BY_CODE, BY_STATUS
from cli.main import EXIT_CODES

PAGE = Path(__file__).parent.parent / "docs" / "errors.md"
KINDS = errors_page.classes()
NEVER_OVER_HTTP = {
    "wait_timeout",
    "server_unreachable",
    "lost_step",
    "step_cancelled",
    "step_failed",
    "episode_over",
    "missing_frame",
}


def test_the_page_in_the_repository_is_the_one_that_is_made() -> None:
    assert PAGE.read_text(encoding="utf-8") == errors_page.page(), "run: python -m app.errors_page > docs/errors.md"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_an_entry_with_its_own_numbers(kind: type[SynthqError]) -> None:
    error = errors_page.example(kind)
    entry = errors_page.page().partition(f'<a id="{error.code}"></a>')[2].partition("<a id=")[0]
    assert f"### {error.code}\n" in entry
    assert f"HTTP {error.status}, exit code {error.exit_code}" in entry
    assert ("may be tried again" in entry) == error.retryable
    assert str(error).splitlines()[0] in entry
    assert str(error)[0] not in "ABCDEFGHIJKLMNOPQRTUVWXYZ" or str(error).startswith("SYNTHQ_"), "a sentence begins in lower case"


def test_no_two_errors_share_a_code() -> None:
    codes = [errors_page.example(kind).code for kind in KINDS] + list(errors_page.HERE)
    assert len(codes) == len(set(codes))
    assert [code for code in codes if errors_page.page().count(f'<a id="{code}"></a>') != 1] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_command_line_ends_with_the_exit_code_on_the_page(kind: type[SynthqError]) -> None:
    error = errors_page.example(kind)
    if error.code in NEVER_OVER_HTTP:
        return
    by_status = BY_STATUS.get(error.status, 1 if error.status == 500 else 6)
    assert BY_CODE.get(error.code, by_status) == error.exit_code


def test_the_exit_codes_are_those_of_synthq_help() -> None:
    said = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in EXIT_CODES.splitlines()]
    assert [(int(code), meaning) for code, meaning in said] == list(errors_page.exit_codes())


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/job", "no_such_path"),
        ("PUT", "/health", "method_not_allowed"),
        ("GET", "/health?x=1", "bad_flag"),
        ("GET", "/docs/errors?x=1", "bad_flag"),
    ],
)
def test_the_type_of_a_problem_leads_to_its_entry(method: str, path: str, code: str) -> None:
    api = TestClient(create_app(), base_url="http://127.0.0.1", client=("127.0.0.1", 50000))
    problem = api.request(method, path).json()
    where, _, anchor = problem["type"].partition("#")
    page = api.get(where)
    assert (anchor, page.status_code, page.headers["content-type"]) == (code, 200, "text/markdown; charset=utf-8")
    assert f'<a id="{anchor}"></a>' in page.text
