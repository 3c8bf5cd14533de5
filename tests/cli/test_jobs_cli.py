"""Jobs through the command line: submit, status, list, cancel, retry, rm, against the real API and store."""

from __future__ import annotations

from pathlib import Path

import pytest
from console import Ran, Synthq, break_steps, row, start_scheduler
from core.kit import work_through

SMALL = ("--seeds", "0-1", "--set", "eval.max_turns=4", "--set", "eval.env_config.length=40")


def submit(synthq: Synthq, *flags: str) -> str:
    """Submit a small eval; give its id."""
    ran = synthq("submit", "eval", *SMALL, *flags)
    assert ran.code == 0, ran.err
    return ran.job_id


def test_submit_prints_the_id_on_stdout_and_three_next_commands_on_stderr(served: Synthq) -> None:
    ran = served("submit", "eval", *SMALL)
    assert ran.code == 0
    assert ran.out.splitlines() == ["✓ Job created", f"job_id: {ran.job_id}"]
    assert [line.split()[:2] for line in ran.err.splitlines()[1:]] == [["synthq", verb] for verb in ("watch", "status", "cancel")]
    assert row(ran.job_id).spec["eval"]["max_turns"] == 4


def test_id_only_prints_the_id_alone(served: Synthq) -> None:
    ran = served("submit", "eval", *SMALL, "--id-only")
    assert ran.out == f"{row(ran.out.strip()).id}\n"


def test_json_prints_the_job(served: Synthq) -> None:
    job = served("submit", "eval", *SMALL, "--json").json
    assert (job["schema_version"], job["kind"], job["state"]) == (1, "eval", "queued")


def test_the_aliases_of_the_seed_submit_the_same_jobs(served: Synthq) -> None:
    ids = [submit(served), served("eval", *SMALL).job_id]
    assert row(ids[0]).spec_sha256 == row(ids[1]).spec_sha256
    assert served("filter", "--job", ids[0], "--json").json["spec"]["filter"]["jobs"] == [ids[0]]


def test_what_is_said_about_a_job_reaches_the_store(served: Synthq) -> None:
    Path("my.toml").write_text('[eval]\nseeds = "3"\nmax_turns = 2\n')
    first = submit(served, "--name", "first")
    flags = ["--name", "n", "--priority", "5", "--label", "a=b", "--label", "c=d=e", "--after", f"any:{first}"]
    job = row(served("submit", "eval", "my.toml", *flags).job_id)
    assert (job.name, job.priority, job.source) == ("n", 5, "my.toml")
    assert job.labels == {"a": "b", "c": "d=e"}
    assert job.after == [{"job": first, "on": "any"}]


def test_at_last_in_a_filter_is_the_job_before_it(served: Synthq) -> None:
    first = submit(served)
    made = row(served("submit", "filter", "--job", "@last", "--after", "ok:@last").job_id)
    assert made.spec["filter"]["jobs"] == [first]
    assert made.after == [{"job": first, "on": "ok"}]


def test_the_same_idempotency_key_gives_the_same_job(served: Synthq) -> None:
    assert submit(served, "--idempotency-key", "k1") == submit(served, "--idempotency-key", "k1")
    assert submit(served) != submit(served)


def test_an_idempotency_key_of_another_request_is_a_conflict(served: Synthq) -> None:
    submit(served, "--idempotency-key", "k1")
    ran = served("submit", "eval", *SMALL, "--priority", "1", "--idempotency-key", "k1")
    assert (ran.code, ran.out) == (5, "")
    assert "'k1' was used before" in ran.err


def test_after_a_job_that_is_not_there_is_not_found(served: Synthq) -> None:
    ran = served("submit", "eval", *SMALL, "--after", "ok:job_nothere")
    assert (ran.code, ran.out) == (3, "")
    assert "no job matches 'job_nothere'" in ran.err


def test_a_job_is_found_by_id_start_name_and_last(served: Synthq) -> None:
    submit(served, "--name", "other")
    job_id = submit(served, "--name", "mine")
    for ref in (job_id, job_id[:-2], job_id.removeprefix("job_")[:10], "mine", "@last"):
        assert served("status", ref, "--json").json["id"] == job_id
    assert served("status", "--json").json["id"] == job_id


NOBODY = ["nothing", "", ".", "..", "a/b", "../../health", "@first", "ä ö", "%2e%2e", "x" * 3000, "a?b=c", "a#b"]


@pytest.mark.parametrize("verb", ["status", "wait", "cancel", "events"])
def test_what_names_no_job_exits_3(served: Synthq, verb: str) -> None:
    for ref in NOBODY:
        ran = served(verb, "--", ref)
        assert (ran.code, ran.out) == (3, ""), ref
        assert ran.err.startswith("Error: no "), ref


def test_a_start_that_fits_several_is_refused_with_their_ids(served: Synthq) -> None:
    ids = {submit(served), submit(served)}
    ran = served("status", "job_")
    assert ran.code == 3
    assert all(id in ran.err for id in ids)


def test_status_says_why_a_job_does_not_run(served: Synthq) -> None:
    submit(served)
    assert "no scheduler leads" in served("status").out
    start_scheduler()
    assert "worker" in next(line for line in served("status").out.splitlines() if line.startswith("waiting"))
    first = row(served("status", "--json").json["id"]).id
    submit(served, "--after", f"ok:{first}")
    assert first in next(line for line in served("status").out.splitlines() if line.startswith("waiting"))


def test_status_shows_scores_with_intervals(served: Synthq) -> None:
    submit(served, "--policy", "scripted,random", "--name", "n")
    work_through()
    ran = served("status", "n")
    assert "succeeded" in ran.out
    assert "progress  4 of 4 episodes" in ran.out
    header = next(line for line in ran.out.splitlines() if line.startswith("POLICY"))
    assert header.split() == ["POLICY", "EPISODES", "ACHIEVEMENTS", "PROGRESS", "CRAFTER", "SCORE", "RETURN", "LENGTH"]
    scripted = next(line for line in ran.out.splitlines() if line.startswith("scripted "))
    summary = row("n").summary
    assert summary is not None
    mean, low, high = (summary["policies"]["scripted"]["return"][key] for key in ("mean", "low", "high"))
    assert f"{mean:.2f} [{low:.2f}, {high:.2f}]" in scripted
    assert "collect_wood" not in ran.out
    assert "collect_wood" in served("status", "n", "--wide").out


def test_status_of_a_failed_job_gives_the_reason(served: Synthq) -> None:
    submit(served)
    break_steps("the disk is full")
    ran = served("status")
    assert ran.code == 0
    assert "the disk is full" in next(line for line in ran.out.splitlines() if line.startswith("reason"))
    assert served("status", "--exit-code").code == 100


def test_list_shows_the_newest_first_and_filters(served: Synthq) -> None:
    old = submit(served, "--name", "old", "--label", "team=red")
    work_through()
    new = submit(served, "--name", "new", "--label", "team=blue")
    made = served("filter").job_id

    def ids(*flags: str) -> list[str]:
        return served("list", "--id-only", *flags).out.split()

    assert ids() == [made, new, old]
    assert ids("--state", "succeeded") == [old]
    assert ids("--state", "queued", "--state", "succeeded") == [made, new, old]
    assert ids("--kind", "filter") == [made]
    assert ids("--name", "new") == [new]
    assert ids("--label", "team=red") == [old]
    assert ids("--limit", "2") == [made, new]
    assert "more than 2" in served("list", "--limit", "2").err
    assert served("list", "--limit", "3").err == ""
    lines = served("list").out.splitlines()
    assert lines[0].split() == ["JOB", "KIND", "NAME", "STATE", "PROGRESS", "CREATED", "WHY"]
    assert [line.split()[0] for line in lines[1:]] == [made, new, old]


def test_list_all_goes_over_every_page(served: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [submit(served) for _ in range(5)]
    monkeypatch.setattr("cli.client.PAGE", 2)
    listed = served("list", "--all", "--json").json
    assert [job["id"] for job in listed["data"]] == ids[::-1]
    assert listed["has_more"] is False
    assert served("list", "--limit", "4", "--id-only").out.split() == ids[:0:-1]


def test_list_of_nothing_says_so_on_stderr(served: Synthq) -> None:
    assert served("list") == Ran(code=0, out="", err="no jobs yet; `synthq submit eval` makes one\n")
    assert served("list", "--json").json == {"schema_version": 1, "object": "list", "data": [], "has_more": False}


def test_cancel_stops_a_job_and_may_be_said_twice(served: Synthq) -> None:
    job_id = submit(served)
    assert served("cancel", job_id).out == f"{job_id}: cancelled\n"
    assert served("cancel", job_id).code == 0
    assert row(job_id).state == "cancelled"


def test_cancelling_what_has_ended_is_a_conflict(served: Synthq) -> None:
    submit(served)
    work_through()
    ran = served("cancel", "@last")
    assert (ran.code, ran.out) == (5, "")
    assert "already succeeded" in ran.err


def test_cancel_of_several_needs_yes_and_does_what_it_can(served: Synthq) -> None:
    done = submit(served)
    work_through()
    waits = submit(served)
    refused = served("cancel", done, waits)
    assert refused.code == 2
    assert "add -y" in refused.err
    assert row(waits).state == "queued"
    ran = served("cancel", done, waits, "-y")
    assert ran.code == 5
    assert ran.out == f"{waits}: cancelled\n"


def test_cancel_all_takes_only_what_has_not_ended(served: Synthq) -> None:
    done = submit(served)
    work_through()
    waiting = {submit(served), submit(served)}
    ran = served("cancel", "--all", "--state", "queued", "-y", "--json")
    assert ran.code == 0
    assert {job["id"] for job in ran.json["data"]} == waiting
    assert row(done).state == "succeeded"
    assert served("cancel", "--all", "-y").err == "no jobs to cancel\n"


def test_retry_queues_a_failed_job_and_refuses_a_good_one(served: Synthq) -> None:
    job_id = submit(served)
    break_steps("no luck")
    assert served("retry", job_id).out == f"{job_id}: queued, attempt 2\n"
    work_through()
    assert row(job_id).state == "succeeded"
    ran = served("retry", job_id)
    assert ran.code == 5
    assert job_id in ran.err


def test_rm_deletes_an_ended_job_when_told_yes(served: Synthq) -> None:
    job_id = submit(served)
    assert served("rm", job_id, "-y").code == 5
    work_through()
    assert served("rm", job_id).code == 2
    assert served("rm", job_id, "-y").out == f"{job_id}: deleted\n"
    assert served("status", job_id).code == 3


def test_keys_guard_the_server(served: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no keys" in served("key", "list").err
    key = served("key", "create", "laptop").out.strip()
    ran = served("list")
    assert (ran.code, ran.out) == (4, "")
    assert "SYNTHQ_API_KEY" in ran.err
    monkeypatch.setenv("SYNTHQ_API_KEY", key[:-1] + "x")
    ran = served("list")
    assert ran.code == 4
    assert key[-20:-1] not in ran.err
    monkeypatch.setenv("SYNTHQ_API_KEY", f" {key}\n")
    assert served("list").code == 0
    listed = served("key", "list", "--json").json["data"]
    assert [each["name"] for each in listed] == ["laptop"]
    assert key not in served("key", "list").out
    assert served("key", "revoke", "nothere").code == 3
    assert served("key", "revoke", listed[0]["id"]).code == 0
    monkeypatch.delenv("SYNTHQ_API_KEY")
    assert served("list").code == 0


def test_a_key_that_cannot_be_a_header_is_told_without_being_shown(served: Synthq, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in ("sq_secret\nX: y", "sq_secrét", "sq secret"):
        monkeypatch.setenv("SYNTHQ_API_KEY", bad)
        ran = served("list")
        assert ran.code == 4
        assert "secr" not in ran.err
