"""Endpoints: what inference workers report of themselves, whom to ask, and what each should serve."""

from __future__ import annotations

from typing import Any

import pytest
from core import kit
from core.kit import write
from core.serving import BASE, OTHER, adapter, bases_of, begin, bring_there, look, row, submit_play, up, use
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import claims, db, endpoints, heartbeat, lifecycle
from app.endpoints import rows
from app.endpoints.spread import spread
from app.endpoints.wanted import Use, Want
from app.models import Endpoint, ModelUse, Queue
from app.store.waiting import waiting_reason

ADAPTER = {"adapter-0123456789abcdef": {"path": "/adapters/a", "sha256": "0" * 64}}


def asked(base: str = BASE, adapter: str = "") -> list[str]:
    """Ids of the endpoints that may be asked."""
    with db.reading() as session:
        return [each.id for each in endpoints.ready(session, base, adapter)]


def live() -> list[str]:
    with db.reading() as session:
        return [each.id for each in endpoints.live(session)]


def test_an_endpoint_is_asked_once_it_is_ready_and_no_more_when_it_stopped(store: str) -> None:
    id = begin()
    assert live() == [id]
    assert asked() == []
    endpoints.report(id, state="starting", base=BASE)
    assert asked() == []
    endpoints.report(id, state="ready", url="http://127.0.0.1:1")
    assert asked() == [id]
    assert asked("/models/other") == []
    endpoints.stopped(id)
    assert live() == asked() == []


def test_an_adapter_is_asked_for_where_it_is_loaded(store: str) -> None:
    with_it, without = up("one", adapters=ADAPTER), up("two")
    assert asked(adapter=next(iter(ADAPTER))) == [with_it]
    assert set(asked()) == {with_it, without}


def test_the_least_loaded_endpoint_comes_first(store: str) -> None:
    small, large = up("one", capacity=2, in_flight=1), up("two", capacity=8, in_flight=3)
    assert asked() == [large, small]
    assert endpoints.beat(large, in_flight=8)
    assert asked() == [small, large]


def test_an_endpoint_that_missed_its_heartbeats_is_out_of_use_until_it_beats_again(store: str) -> None:
    id = up()
    write("UPDATE endpoint SET heartbeat_at = heartbeat_at - :late", late=rows.gone_after_s())
    assert live() == asked() == []
    assert endpoints.beat(id)
    assert live() == asked() == [id]


def test_one_that_begins_again_takes_the_place_of_what_it_was(store: str) -> None:
    first = up()
    second = begin(engines=("vllm",))
    assert live() == [second]
    assert asked() == []
    assert not endpoints.beat(first)
    assert not endpoints.report(first, in_flight=1)
    assert endpoints.desired_of(first) is None
    assert endpoints.desired_of(second) == {}
    assert endpoints.failed(first, BASE, "late words") == 0


def test_one_that_stopped_must_register_again(store: str) -> None:
    id = up()
    endpoints.stopped(id)
    assert not endpoints.beat(id)
    assert not endpoints.report(id, state="ready")
    assert live() == []


def test_it_is_told_since_when_it_loads_and_serves(store: str) -> None:
    id = begin()
    began = row(id).changed_at
    endpoints.report(id, state="starting", base=BASE)
    loading = row(id)
    assert loading.changed_at > began
    assert loading.ready_at is None
    endpoints.report(id, state="ready", base=BASE)
    serving = row(id)
    assert serving.ready_at == serving.changed_at > loading.changed_at
    endpoints.report(id, in_flight=3, adapters=ADAPTER)
    assert row(id).changed_at == serving.changed_at


def test_failures_are_counted_by_name_and_an_adapter_that_is_served_has_none(store: str) -> None:
    id = begin()
    assert [endpoints.failed(id, BASE, f"try {i}") for i in (1, 2)] == [1, 2]
    assert endpoints.failed(id, next(iter(ADAPTER)), "rank 128 is above 64", lasting=True) == 1
    told = row(id).failures
    assert told[BASE]["reason"] == "try 2"
    assert not told[BASE]["lasting"]
    endpoints.report(id, state="ready", base=BASE)
    assert set(row(id).failures) == {BASE, *ADAPTER}
    endpoints.report(id, adapters=ADAPTER)
    assert list(row(id).failures) == [BASE]


def test_a_base_that_is_ready_and_dies_each_time_is_given_up_and_one_that_served_for_long_is_not(store: str) -> None:
    id = begin()
    job = submit_play(seeds="0-1")
    look()
    for tries in range(1, rows.MOST_TRIES + 1):
        bring_there(id)
        if tries == rows.MOST_TRIES:
            write("UPDATE endpoint SET ready_at = ready_at - :steady", steady=rows.STEADY_S)
            assert endpoints.failed(id, BASE, "the engine ended") == 1
            endpoints.report(id, state="starting")
            bring_there(id)
            assert endpoints.failed(id, BASE, "the engine ended") == 2
            endpoints.report(id, state="starting")
            bring_there(id)
            assert endpoints.failed(id, BASE, "the engine ended") == rows.MOST_TRIES
        else:
            assert endpoints.failed(id, BASE, "the engine ended") == tries
        endpoints.report(id, state="starting")
        assert kit.job(job.id).state == "queued"
    assert end_of(job.id)[0] == "failed"


def test_what_is_served_by_now_is_not_given_up_for_how_it_failed_before(store: str) -> None:
    id = begin()
    older = submit_play(seeds="0-1")
    look()
    for _ in range(rows.MOST_TRIES):
        endpoints.failed(id, BASE, "the engine ended")
    newer = submit_play(seeds="0-1")
    bring_there(id)
    with db.writing() as session:
        lifecycle.cancel(session, newer)
    look()
    assert bases_of(id) == [BASE]
    assert kit.claim().job_id == older.id


def test_failures_are_kept_apart_by_how_the_base_was_to_be_served(store: str) -> None:
    id = begin()
    one: dict[str, Any] = {"engine": "vllm", "base": BASE, "options": {"dtype": "float16"}}
    two: dict[str, Any] = {"engine": "vllm", "base": BASE, "options": {}}
    assert [endpoints.failed(id, BASE, "it", model=model) for model in (one, two, one)] == [1, 1, 2]
    found = row(id)
    told = [(rows.failure_of(found, BASE, model) or {})["tries"] for model in (one, two)]
    assert told == [2, 1]
    rows.forget(found, [BASE], one)
    assert rows.failure_of(found, BASE, one) is None
    assert rows.failure_of(found, BASE, two) is not None


# -- what each should serve ----------------------------------------------------------------------------------------------------


def test_an_endpoint_is_told_to_serve_what_a_job_plays_with_and_how(store: str) -> None:
    id = begin(engines=("vllm", "transformers"))
    look()
    assert row(id).desired == {}
    submit_play(use(options={"max_model_len": 2048}))
    look()
    told = {"engine": "vllm", "base": BASE, "options": {"max_model_len": 2048}, "adapters": {}}
    assert endpoints.desired_of(id) == told


def test_an_endpoint_stays_on_its_base_while_a_job_wants_it(store: str) -> None:
    one = begin()
    submit_play()
    look()
    submit_play(use(OTHER), priority=5)
    look()
    assert bases_of(one) == [BASE]
    two = begin("inference-2")
    look()
    assert bases_of(one, two) == [BASE, OTHER]


def test_free_endpoints_go_to_unserved_bases_first_and_then_to_where_most_steps_wait(store: str) -> None:
    submit_play(use(OTHER), seeds="0-1")
    submit_play(seeds="0-9", priority=1)
    ids = [begin(f"inference-{i}") for i in range(4)]
    look()
    assert sorted(bases_of(*ids)) == [OTHER, BASE, BASE, BASE]


def test_a_base_that_several_serve_lends_one_to_a_base_that_nobody_serves(store: str) -> None:
    submit_play(seeds="0-9")
    ids = [begin(f"inference-{i}") for i in range(2)]
    look()
    assert bases_of(*ids) == [BASE, BASE]
    bring_there(*ids)
    endpoints.beat(ids[0], in_flight=5)
    submit_play(use(OTHER))
    look()
    assert bases_of(*ids) == [BASE, OTHER]


def test_a_base_that_no_job_wants_stays_for_a_while(store: str) -> None:
    id = begin()
    job = submit_play()
    look()
    bring_there(id)
    with db.writing() as session:
        lifecycle.cancel(session, job)
    look()
    assert bases_of(id) == [BASE]
    assert row(id).idle_since is not None
    submit_play()
    look()
    assert row(id).idle_since is None
    write("UPDATE job SET cancel_requested_at = 1")
    look()
    write("UPDATE endpoint SET idle_since = idle_since - 601")
    look()
    assert endpoints.desired_of(id) == {}
    assert row(id).idle_since is None


def test_a_job_that_asks_for_an_engine_is_not_given_to_one_that_has_it_not(store: str) -> None:
    mine, theirs = begin("one"), begin("two", engines=("vllm",))
    submit_play(use(engine="vllm"), seeds="0-9")
    look()
    assert bases_of(mine, theirs) == ["", BASE]
    assert row(theirs).desired["engine"] == "vllm"


def test_an_engine_that_nobody_has_keeps_no_other_job_from_its_model(store: str) -> None:
    id = begin()
    apart = submit_play(use(engine="vllm"), priority=9)
    mine = submit_play()
    look()
    bring_there(id)
    assert kit.claim().job_id == mine.id
    kit.write("UPDATE step SET state = 'cancelled' WHERE job_id = :id", id=mine.id)
    assert claims.claim(Queue.ROLLOUT, owner="w") is None, f"{apart.id} insists on vllm"


def test_two_jobs_may_have_one_base_served_by_two_engines(store: str) -> None:
    mine, theirs = begin("one", engines=("transformers", "vllm")), begin("two", engines=("transformers", "vllm"))
    submit_play(use(engine="vllm"), seeds="0")
    submit_play(use(engine="transformers"), seeds="0")
    submit_play(use(), seeds="0")
    look()
    assert [(row(id).desired["base"], row(id).desired["engine"]) for id in (mine, theirs)] == [
        (BASE, "vllm"),
        (BASE, "transformers"),
    ]


def test_a_job_shares_what_covers_its_options_and_is_told_once_of_what_is_otherwise(store: str) -> None:
    id = begin()
    older = submit_play(use(options={"max_model_len": 4096, "max_num_seqs": 8}))
    newer = submit_play(use(options={"max_model_len": 1024, "max_num_seqs": 16}), priority=9)
    for _ in range(3):
        look()
    assert row(id).desired["options"] == {"max_model_len": 4096, "max_num_seqs": 8}
    bring_there(id)
    assert kit.claim().job_id == newer.id
    told = [event.message for event in kit.job_events(newer.id) if event.type == "model.options"]
    assert told == [f"{BASE} is served already, as an older job asks: max_num_seqs = 8, not 16"]
    assert not [event for event in kit.job_events(older.id) if event.type == "model.options"]


FULL: dict[str, Any] = {
    "max_model_len": 4096,
    "max_lora_rank": 16,
    "max_loras": 2,
    "limit_mm_per_prompt": {"image": 2, "video": 0},
    "dtype": "auto",
}
MORE: list[dict[str, Any]] = [
    {"max_model_len": 8192},
    {"max_lora_rank": 64},
    {"max_loras": 3},
    {"limit_mm_per_prompt": {"image": 3, "video": 0}},
    {"dtype": "float32"},
]


@pytest.mark.parametrize("more", MORE, ids=lambda more: next(iter(more)))
def test_options_that_do_not_cover_what_a_job_asks_make_it_wait_for_its_turn(store: str, more: dict[str, Any]) -> None:
    heartbeat.lead("scheduler", "one", 600.0)
    id = begin()
    older = submit_play(use(options=FULL))
    look()
    bring_there(id)
    kit.claim()
    newer = submit_play(adapter("adapter-a", options=FULL | more), priority=9)
    look()
    bring_there(id)
    look()
    assert (row(id).desired["options"], row(id).desired["adapters"]) == (FULL, {})
    assert {step.state for step in kit.steps(newer.id)} == {"queued"}
    assert kit.claim().job_id == older.id
    key = next(iter(more))
    why = reason(newer.id)
    assert why is not None
    assert why.startswith(f"waits for its turn: endpoint {id} serves {BASE} otherwise for other jobs ({key}")
    with db.writing() as session:
        lifecycle.cancel(session, older)
    look()
    assert row(id).desired["options"] == FULL | more
    assert claims.claim(Queue.ROLLOUT, owner="w") is None, "the engine that is there still is the old one"
    bring_there(id)
    assert kit.claim().job_id == newer.id


def test_options_that_do_not_cover_what_a_job_asks_have_another_endpoint_serve_it(store: str) -> None:
    one, two = begin("one"), begin("two")
    small, large = {"max_model_len": 1024}, {"max_model_len": 4096}
    submit_play(use(options=small), seeds="0-9")
    newer = submit_play(use(options=large))
    look()
    assert [row(id).desired["options"] for id in (one, two)] == [small, large]
    bring_there(one)
    with db.reading() as session:
        assert [each.id for each in endpoints.ready(session, BASE, options=small)] == [one]
        assert endpoints.ready(session, BASE, options=large) == []
    assert kit.claim().job_id != newer.id
    look()
    assert [row(id).desired["options"] for id in (one, two)] == [small, large]


def test_what_steps_play_with_is_not_served_otherwise_when_the_older_job_ends(store: str) -> None:
    id = begin()
    asked = {"max_model_len": 4096, "max_num_seqs": 8}
    older = submit_play(use(options=asked))
    submit_play(use(options={"max_model_len": 1024, "max_num_seqs": 16}), priority=9)
    look()
    bring_there(id)
    kit.claim()
    with db.writing() as session:
        lifecycle.cancel(session, older)
    look()
    assert row(id).desired["options"] == asked


def test_every_endpoint_of_a_base_is_to_load_every_adapter_that_jobs_want_on_it(store: str) -> None:
    submit_play(adapter("adapter-a"), adapter("adapter-b"), seeds="0-9")
    submit_play(adapter("adapter-c", OTHER), seeds="0-1")
    ids = [begin(f"inference-{i}") for i in range(3)]
    look()
    told = [row(id).desired for id in ids]
    assert sorted((each["base"], sorted(each["adapters"])) for each in told) == [
        (OTHER, ["adapter-c"]),
        (BASE, ["adapter-a", "adapter-b"]),
        (BASE, ["adapter-a", "adapter-b"]),
    ]


def test_no_more_adapters_are_loaded_than_there_is_room_for_and_the_job_that_waits_is_told(store: str) -> None:
    id = begin()
    submit_play(adapter("adapter-a"), adapter("adapter-b"))
    late = submit_play(adapter("adapter-c"))
    look()
    look()
    assert sorted(row(id).desired["adapters"]) == ["adapter-a", "adapter-b"]
    told = [event.message for event in kit.job_events(late.id) if event.type == "model.no_room"]
    assert told == [f"the adapter /adapters/adapter-c waits for room: 2 are loaded beside {BASE} (max_loras = 2)"]


def test_an_adapter_that_is_in_use_stays_whatever_has_priority(store: str) -> None:
    id = begin()
    submit_play(adapter("adapter-a"))
    look()
    bring_there(id)
    kit.claim()
    submit_play(adapter("adapter-b"), adapter("adapter-c"), priority=9)
    look()
    assert sorted(row(id).desired["adapters"]) == ["adapter-a", "adapter-b"]


def test_a_look_writes_nothing_without_endpoints_nor_where_all_is_as_it_should_be(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_play(adapter("adapter-a"))
    with monkeypatch.context() as patch:
        patch.setattr(db, "writing", lambda: pytest.fail("it wrote"))
        look()
    id = begin()
    look()
    bring_there(id)
    with monkeypatch.context() as patch:
        patch.setattr(db, "writing", lambda: pytest.fail("it wrote"))
        look()


# -- who may claim -------------------------------------------------------------------------------------------------------------


def test_a_step_that_needs_a_model_is_claimed_only_while_it_is_served(store: str) -> None:
    job = submit_play(adapter("adapter-a"), with_random=True)
    taken = [claims.claim(Queue.ROLLOUT, owner="w") for _ in range(5)]
    assert [claim.payload.get("policy") for claim in taken if claim] == [None] * 4, "others do not wait for the model"
    id = begin()
    look()
    assert claims.claim(Queue.ROLLOUT, owner="w") is None
    endpoints.report(id, state="ready", base=BASE)
    assert claims.claim(Queue.ROLLOUT, owner="w") is None, "the base alone is not the model"
    bring_there(id)
    step = claims.claim(Queue.ROLLOUT, owner="w")
    assert step is not None
    assert (step.job_id, step.payload["policy"]) == (job.id, "model:/adapters/adapter-a")
    endpoints.stopped(id)
    assert claims.claim(Queue.ROLLOUT, owner="w") is None


# -- what cannot be served -----------------------------------------------------------------------------------------------------


def reason(job_id: str) -> str | None:
    with db.reading() as session:
        return waiting_reason(session, kit.job(job_id))


def test_a_job_that_waits_for_a_model_says_so(store: str) -> None:
    heartbeat.lead("scheduler", "one", 600.0)
    heartbeat.register("w", role="rollout", queues=["rollout", "data"], slots=1)
    job = submit_play(adapter("adapter-a"))
    ref = "/adapters/adapter-a"
    start = "start one: `synthq worker inference`"
    assert reason(job.id) == f"waits for an inference worker that can serve {ref} (none is alive); {start}"
    id = begin()
    assert reason(job.id) == f"waits for the scheduler to have an endpoint serve {ref}"
    look()
    assert reason(job.id) == f"endpoint {id} is loading {BASE}"
    endpoints.report(id, state="starting", base=BASE)
    write("UPDATE endpoint SET changed_at = changed_at - 12")
    assert reason(job.id) == f"endpoint {id} is loading {BASE} (12 s)"
    endpoints.failed(id, BASE, "the engine ended with status 1")
    assert reason(job.id) == f"endpoint {id} failed to load {BASE} (try 1 of 3): the engine ended with status 1"
    endpoints.report(id, state="ready", base=BASE)
    assert reason(job.id) == f"endpoint {id} is loading {ref}"
    bring_there(id)
    assert reason(job.id) == "1 of 1 slot of queue rollout is free; a worker takes it within seconds"
    kit.claim()
    assert reason(job.id) is None


def test_a_running_job_whose_only_engine_is_coming_back_says_so_and_why(store: str) -> None:
    heartbeat.lead("scheduler", "one", 600.0)
    heartbeat.register("w", role="rollout", queues=["rollout", "data"], slots=2)
    job, mixed = submit_play(), submit_play(seeds="0", with_random=True)
    id = begin()
    look()
    bring_there(id)
    while claims.claim(Queue.ROLLOUT, owner="w") is not None:
        pass
    assert (reason(job.id), reason(mixed.id)) == (None, None)
    ended = "engine transformers ended (killed by SIGKILL)"
    endpoints.failed(id, BASE, f"{ended}\n  and its last words")
    endpoints.report(id, state="starting", url="", adapters={})
    assert reason(job.id) == f"endpoint {id} is coming back with {BASE} (failure 1 of 3): {ended}"
    assert reason(mixed.id) is None, "a step that needs no model gets on"
    endpoints.failed(id, BASE, "no port is free")
    assert reason(job.id) == f"endpoint {id} failed to load {BASE} (try 2 of 3): no port is free"
    endpoints.report(id, state="ready", url="http://x")
    assert reason(job.id) is None


def test_what_a_reason_names_by_itself_is_not_named_twice(store: str) -> None:
    id = begin()
    job = submit_play()
    look()
    endpoints.failed(id, BASE, f"{BASE}/model.safetensors is damaged", lasting=True)
    look()
    told = {step.reason for step in kit.steps(job.id) if step.needs}
    assert told == {f"the inference worker failed to load the model: {BASE}/model.safetensors is damaged"}


def test_an_engine_that_answers_its_own_machine_alone_is_no_use_elsewhere(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat.lead("scheduler", "one", 600.0)
    heartbeat.register("w", role="rollout", queues=["rollout", "data"], slots=1)
    job = submit_play()
    id = up()
    look()
    assert asked() == [id]
    write("UPDATE endpoint SET host = 'far'")
    assert asked() == []
    assert claims.claim(Queue.ROLLOUT, owner="w") is None
    where = f"endpoint {id} answers far alone (http://127.0.0.1:8000), where no rollout worker runs"
    assert reason(job.id) == f"{where}; start one there, or set SYNTHQ_ENGINE_HOST there to an address for other hosts"
    monkeypatch.setattr("socket.gethostname", lambda: "far")
    assert asked() == [id]
    monkeypatch.undo()
    endpoints.report(id, url="http://10.0.0.7:8000")
    assert asked() == [id]
    assert kit.claim().job_id == job.id


def test_a_job_that_waits_for_an_engine_for_room_or_for_another_job_says_so(store: str) -> None:
    heartbeat.lead("scheduler", "one", 600.0)
    id = begin()
    other = submit_play(use(engine="vllm"))
    assert reason(other.id) == f"waits for an inference worker that can serve {BASE} with vllm (none of the 1 alive has it)"
    submit_play(adapter("adapter-a"), adapter("adapter-b"))
    late, apart = submit_play(adapter("adapter-c")), submit_play(use(OTHER))
    look()
    bring_there(id)
    assert reason(late.id) == f"waits for room: endpoint {id} has 2 adapters in use beside {BASE}"
    with db.writing() as session:
        endpoint = session.get_one(Endpoint, id)
        endpoint.desired = {**endpoint.desired, "options": {**endpoint.desired["options"], "max_loras": 3}}
    soon = f"waits for the scheduler to have endpoint {id}, which serves {BASE}, load /adapters/adapter-c"
    assert reason(late.id) == soon, "there is room, and nobody has looked yet"
    need = "the only one serves another that is needed"
    assert reason(apart.id) == f"waits for an endpoint that is free to serve {OTHER}: {need}"


def test_a_job_of_which_other_steps_can_run_says_nothing_of_the_model(store: str) -> None:
    heartbeat.lead("scheduler", "one", 600.0)
    job = submit_play(with_random=True)
    assert reason(job.id) == "no live worker serves queue rollout; start one: `synthq worker rollout`"


def end_of(job_id: str) -> tuple[str, str | None]:
    """How a job ends once everything that can run has run."""
    look()
    kit.work_through()
    look()
    kit.work_through()
    found = kit.job(job_id)
    return found.state, found.reason


def test_a_base_that_can_never_be_loaded_fails_the_steps_that_wait_for_it_with_the_reason(store: str) -> None:
    id = begin()
    job = submit_play(seeds="0-1")
    look()
    endpoints.failed(id, BASE, "its config.json names no model that is known", lasting=True)
    state, why = end_of(job.id)
    assert state == "failed"
    assert why is not None
    assert why.endswith(f"the inference worker failed to load {BASE}: its config.json names no model that is known")
    assert endpoints.desired_of(id) == {}, "nobody wants it any more, and it would not come up"


def test_a_base_that_failed_once_is_tried_again_and_given_up_after_three(store: str) -> None:
    id = begin()
    job = submit_play(seeds="0-1")
    for _ in range(rows.MOST_TRIES - 1):
        look()
        endpoints.failed(id, BASE, "the engine ended with status 1")
    look()
    assert bases_of(id) == [BASE]
    assert kit.job(job.id).state == "queued"
    endpoints.failed(id, BASE, "the engine ended with status 1")
    assert end_of(job.id)[0] == "failed"


def test_a_job_waits_while_another_endpoint_may_still_serve_it(store: str) -> None:
    one, two = begin("one"), begin("two")
    job = submit_play(seeds="0-9")
    look()
    endpoints.failed(one, BASE, "out of memory", lasting=True)
    look()
    assert bases_of(one, two) == ["", BASE]
    assert kit.job(job.id).state == "queued"
    endpoints.failed(two, BASE, "out of memory", lasting=True)
    look()
    states = {step.state for step in kit.steps(job.id) if step.needs}
    assert states == {"failed"}


def states_of(job_id: str) -> set[str]:
    """States of the steps that need a model."""
    return {step.state for step in kit.steps(job_id) if step.needs}


@pytest.mark.parametrize("other", [{"engine": "transformers"}, {"options": {"max_model_len": 512}}], ids=["engine", "options"])
def test_what_one_job_asks_for_in_vain_does_not_fail_another_that_asks_otherwise(store: str, other: dict[str, Any]) -> None:
    id = begin(engines=("vllm", "transformers"))
    bad = submit_play(use(engine="vllm", options={"max_model_len": 4096, "max_num_seqs": 1024}))
    good = submit_play(use(**{"engine": "vllm", **other}))
    look()
    endpoints.failed(id, BASE, "out of memory", lasting=True)
    look()
    look()
    assert states_of(bad.id) == {"failed"}
    assert states_of(good.id) == {"queued"}
    bring_there(id)
    assert kit.claim().job_id == good.id


def test_two_jobs_that_fail_by_turns_are_both_given_up(store: str) -> None:
    one, two = begin("one"), begin("two")
    elsewhere = submit_play(use(OTHER), seeds="0-9", priority=9)
    jobs = [submit_play(use(options={"max_model_len": length})) for length in (4096, 8192)]
    for _ in range(8):
        look()
        for id in (one, two):
            if row(id).desired.get("base") == BASE:
                endpoints.failed(id, BASE, "out of memory", lasting=True)
    with db.writing() as session:
        lifecycle.cancel(session, elsewhere)
    for _ in range(8):
        look()
        for id in (one, two):
            if row(id).desired.get("base") == BASE:
                endpoints.failed(id, BASE, "out of memory", lasting=True)
    assert [states_of(job.id) for job in jobs] == [{"failed"}, {"failed"}]


@pytest.mark.parametrize("busy", [False, True])
def test_an_adapter_that_one_endpoint_can_never_load_fails_its_steps_whatever_the_others_serve(store: str, busy: bool) -> None:
    ids = begin("one"), begin("two")
    if busy:
        submit_play(use(OTHER), seeds="0-9")
    job = submit_play(adapter("adapter-a"), seeds="0")
    look()
    mine = next(id for id in ids if row(id).desired.get("base") == BASE)
    endpoints.failed(mine, "adapter-a", "its rank is 128", lasting=True)
    look()
    assert states_of(job.id) == {"failed"}
    told = next(step.reason for step in kit.steps(job.id) if step.needs)
    assert told == f"endpoint {mine} failed to load /adapters/adapter-a: its rank is 128"


def test_an_adapter_that_failed_for_a_while_is_given_up_once_every_endpoint_of_its_base_has(store: str) -> None:
    ids = begin("one"), begin("two")
    job = submit_play(adapter("adapter-a"), seeds="0-3")
    look()
    for id in ids:
        assert states_of(job.id) == {"queued"}
        for _ in range(rows.MOST_TRIES):
            endpoints.failed(id, "adapter-a", "the disk does not answer")
        look()
    assert states_of(job.id) == {"failed"}


def test_what_was_planned_to_fail_does_not_where_it_can_be_served_by_then(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    id = begin()
    job = submit_play(seeds="0-1")
    look()
    endpoints.failed(id, BASE, "no config.json", lasting=True)
    real = lifecycle.lock_job

    def another_begins(session: Any, job_id: str) -> Any:
        locked = real(session, job_id)
        at = db.clock(session)
        session.add(
            Endpoint(
                id="end_new", worker_id="two", host="h", engines=["transformers"], started_at=at, heartbeat_at=at, changed_at=at
            )
        )
        session.flush()
        return locked

    monkeypatch.setattr(lifecycle, "lock_job", another_begins)
    look()
    assert states_of(job.id) == {"queued"}


def test_an_adapter_that_no_endpoint_can_load_fails_its_own_steps_alone(store: str) -> None:
    id = begin()
    good, bad = submit_play(adapter("adapter-a")), submit_play(adapter("adapter-b"))
    look()
    bring_there(id)
    endpoints.report(id, adapters={"adapter-a": {"path": "", "sha256": ""}})
    endpoints.failed(id, "adapter-b", "its rank is 128, and max_lora_rank is 64", lasting=True)
    look()
    assert sorted(row(id).desired["adapters"]) == ["adapter-a"]
    assert {step.state for step in kit.steps(bad.id) if step.needs} == {"failed"}
    assert {step.state for step in kit.steps(good.id)} == {"queued"}


def test_a_retry_has_the_model_tried_again(store: str) -> None:
    id = begin()
    job = submit_play(seeds="0-1")
    look()
    endpoints.failed(id, BASE, "no config.json", lasting=True)
    assert end_of(job.id)[0] == "failed"
    with db.writing() as session:
        lifecycle.retry(session, kit.job(job.id))
    look()
    assert bases_of(id) == [BASE]
    assert row(id).failures == {}
    assert kit.job(job.id).state == "queued"


# -- spreading, by itself ------------------------------------------------------------------------------------------------------


def made(id: str, base: str, engines: list[str]) -> Endpoint:
    times: dict[str, Any] = {"started_at": 0, "heartbeat_at": 0, "changed_at": 0}
    desired = {"base": base, "engine": "", "options": {}, "adapters": {}} if base else {}
    desired |= {"engine": engines[0]} if base else {}
    return Endpoint(id=id, worker_id=id, host="h", engines=engines, desired=desired, **times)


def want(base: str, waiting: int, engine: str) -> Want:
    row = ModelUse(job_id=f"job_{base}", label=f"model:{base}", base=base, engine=engine)
    use = Use(row=row, priority=0, created_at=0, waiting=waiting, running=0, since=0)
    return Want(base=base, engine=engine, options={}, uses=(use,))


ENGINES = st.sampled_from([["transformers"], ["vllm"], ["vllm", "transformers"]])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    held=st.lists(st.tuples(st.sampled_from(["", "a", "b", "c", "d"]), ENGINES), max_size=6),
    wanted=st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 5), st.sampled_from(["auto", "vllm", "transformers"])),
        max_size=4,
        unique_by=lambda each: each[0],
    ),
)
def test_spreading_keeps_what_is_wanted_serves_what_it_can_and_then_stays_as_it_is(
    held: list[tuple[str, list[str]]], wanted: list[tuple[str, int, str]]
) -> None:
    endpoints_ = [made(f"end_{i}", base, engines) for i, (base, engines) in enumerate(held)]
    wants = [want(*each) for each in wanted]
    given_ = spread(endpoints_, wants)
    by_base = {each.base: each for each in wants}
    for endpoint in endpoints_:
        if endpoint.id in given_:
            engine = given_[endpoint.id].engine
            assert engine == "auto" or engine in endpoint.engines
    served = {each.base for each in given_.values()}
    for endpoint in endpoints_:
        before = by_base.get(endpoint.desired.get("base", ""))
        if before is not None and before.engine in ("auto", endpoint.desired["engine"]):
            assert before.base in served, "a base that was served and is wanted is served still"
    if any(each.base not in served for each in wants):
        unserved = [each for each in wants if each.base not in served]
        able = [e for e in endpoints_ if any(w.engine in ("auto", *e.engines) for w in unserved)]
        assert all(e.id in given_ for e in able), "no endpoint is idle that could serve what nobody serves"
    for _ in held:  # what a base lends may be given back by an endpoint that was of no use before
        now, given_ = given_, apply(endpoints_, wants, given_)
    assert not held or given_ == now


def apply(endpoints_: list[Endpoint], wants: list[Want], given_: dict[str, Want]) -> dict[str, Want]:
    """Have endpoints serve what they are given; what they are given then."""
    for endpoint in endpoints_:
        want = given_.get(endpoint.id)
        engine = endpoint.engines[0] if want is None or want.engine == "auto" else want.engine
        endpoint.desired = {"base": want.base, "engine": engine, "options": {}} if want is not None else {}
    return spread(endpoints_, wants)
