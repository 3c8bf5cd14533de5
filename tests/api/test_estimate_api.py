"""What a training would come to, by the API: from the sizes of its model, and from what earlier jobs with it have stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from core import model_folders
from core.kit import use_settings
from fastapi.testclient import TestClient

from app import db, lifecycle, specs
from app.models import Artifact, Episode, Job, Step, StepState
from app.store import metrics

Json = dict[str, Any]
TEXT = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
    **{"head_dim": 32, "vocab_size": 512, "max_position_embeddings": 4096},
}
VISION = {
    **{"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "num_position_embeddings": 64},
    **{"patch_size": 7, "spatial_merge_size": 3, "temporal_patch_size": 2, "deepstack_visual_indexes": [0]},
}
ROLLOUT = {"max_turns": 10, "episodes_per_batch": 16}


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A whole model."""
    return model(tmp_path / "base")


def model(folder: Path, **text: int) -> str:
    """A whole model whose config tells all of its sizes."""
    config = model_folders.base(folder) / "config.json"
    whole = {**json.loads(config.read_text()), "text_config": {**TEXT, **text}, "vision_config": VISION}
    config.write_text(json.dumps(whole))
    return str(folder)


def rl_tables(base: str, **tables: Json) -> Json:
    training = {"iterations": 5, "group_size": 8}
    found: Json = {"model": {"base": base}, "rollout": ROLLOUT, "training": training, "evaluation": {"instances": 8}}
    return {**found, **{name: {**found.get(name, {}), **table} for name, table in tables.items()}}


def ask(api: TestClient, kind: str, spec: Json, **more: int) -> Json:
    answered = api.post("/v1/estimate", json={"kind": kind, "spec": spec, **more})
    assert answered.status_code == 200, answered.text
    return dict(answered.json())


def sentence(told: Json, what: str) -> str:
    (found,) = [each for each in told["said"] if each.startswith(f"{what}: ")]
    return str(found)


def submitted(api: TestClient, kind: str, spec: Json) -> str:
    answered = api.post("/v1/jobs", json={"kind": kind, "spec": spec})
    assert answered.status_code == 202, answered.text
    return str(answered.json()["id"])


def trained_from_data(base: str, **result: Any) -> str:
    """A job that trained an adapter on the base at some speed."""
    with db.writing() as session:
        spec = specs.resolved(specs.parse("sft", {"sft": {"model": base, "data": "job_x"}}))
        job = lifecycle.submit(session, kind="sft", spec=spec, spec_sha256="0" * 64, name=None)
        told = {"samples_per_s": 50.0, "samples_learnt": 100, "tokens": 4000, "memory_bytes": 700_000_000, "device": "cpu"}
        session.add(
            Artifact(
                id=f"art_{job.id[4:]}",
                job_id=job.id,
                step_id="stp_1",
                kind="adapter",
                name="adapter",
                path="x",
                sha256="0" * 64,
                bytes=1,
                data={"base": base, "result": {"trainer_mode": "lora", **told, **result}},
                created_at=1.0,
            )
        )
        return job.id


def learnt_from_play(job_id: str, *, turns: int = 100, seconds: float = 10.0) -> None:
    """The job has made two updates: 100 samples in 5 s each, their play as told."""
    figures = {"seconds/call": 4.0, "seconds/publish": 1.0, "samples": 100, "memory/peak_mib": 600}
    with db.writing() as session:
        for iteration in (0, 1):
            metrics.record(session, job_id, "update", iteration, {**figures, "tokens/prompt": 3000, "tokens/reply": 200})
            step = Step(
                id=f"stp_{iteration}",
                job_id=job_id,
                key=f"1/play/{iteration}/0",
                kind="play",
                queue="rollout",
                position=iteration + 10,
                payload={"episodes": [[iteration, 10_000, 0]]},
                state=StepState.SUCCEEDED,
                created_at=0.0,
                available_at=0.0,
                started_at=100.0 * iteration,
                finished_at=100.0 * iteration + seconds,
            )
            session.add(step)
            session.flush()
            more = {"env": "crafter", "env_version": "1", "split": "train", "policy": "model:x", "policy_version": "v"}
            session.add(
                Episode(
                    id=f"epi_{iteration}",
                    job_id=job_id,
                    step_id=step.id,
                    iteration=iteration,
                    seed=10_000,
                    member=0,
                    state="done",
                    turns=turns,
                    created_at=0.0,
                    **more,
                )
            )


def test_nothing_is_made_up_where_nothing_was_measured(api: TestClient, base: str) -> None:
    told = ask(api, "rl", rl_tables(base))
    assert told["seconds"] is None
    assert sentence(told, "time").startswith("time: not known yet: no job with this model was measured here")
    assert {"gpu", "cpu"} == set(told["figures"]["trainer"])
    assert told["figures"]["samples"] == 5 * 16 * 10
    assert not any("measured:" in each for each in told["said"])


def test_a_model_whose_sizes_are_not_known_is_said_to_be_unknown(api: TestClient) -> None:
    told = ask(api, "rl", rl_tables("Someone/Model-7B"))
    assert "the sizes of Someone/Model-7B are not known here" in sentence(told, "memory of the trainer")
    assert told["figures"]["trainer"] == {}


def test_time_is_that_of_the_pace_of_an_earlier_job_which_is_named(api: TestClient, base: str) -> None:
    job = submitted(api, "rl", rl_tables(base))
    learnt_from_play(job)
    told = ask(api, "rl", rl_tables(base))
    turns, samples = 5 * 160 + 2 * 80, 5 * 160
    assert told["seconds"] == pytest.approx(turns / 10 + samples / 20)
    assert sentence(told, "time") == (
        f"time: about 2.3 min at the most: play 96 s (10 turns/s in {job}) and updates 40 s (20 samples/s in {job})"
    ).replace("play 96 s", "play 1.6 min")
    assert set(told["figures"]["trainer"]) == {"cpu"}, "it has run on a CPU before"
    assert f"memory measured: 629 MB at the most, the program with it (trainer of {job})" in told["said"]
    assert f"32 in all in {job}, which plays the same way" in sentence(told, "tokens")
    overlapped = ask(api, "rl", rl_tables(base, training={"staleness": 1}))
    assert overlapped["seconds"] == pytest.approx(160 / 10 + 80)


def test_tokens_of_play_that_shows_something_else_are_not_taken_over(api: TestClient, base: str) -> None:
    learnt_from_play(submitted(api, "rl", rl_tables(base)))
    told = ask(api, "rl", rl_tables(base, rollout={"policy_config": {"history": 1}}))
    assert "is known after the first update" in sentence(told, "tokens")


def test_another_models_pace_counts_only_if_it_has_the_same_sizes(api: TestClient, base: str, tmp_path: Path) -> None:
    job = trained_from_data(model(tmp_path / "like"))
    spec = {"sft": {"model": base, "data": "job_x"}}
    told = ask(api, "sft", spec, lines=1000)
    assert told["seconds"] == pytest.approx(20)
    assert sentence(told, "time") == f"time: about 20 s (50 samples/s in {job})"
    deeper = model(tmp_path / "deeper", num_hidden_layers=3)
    assert ask(api, "sft", {"sft": {**spec["sft"], "model": deeper}}, lines=1000)["seconds"] is None
    assert ask(api, "sft", {"sft": {**spec["sft"], "trainer_mode": "full"}}, lines=1000)["seconds"] is None


def test_where_play_alone_is_not_known_that_is_said(api: TestClient, base: str) -> None:
    job = trained_from_data(base)
    told = ask(api, "rl", rl_tables(base))
    assert told["seconds"] is None
    assert sentence(told, "time") == (
        f"time: updates 16 s (50 samples/s of sft in {job}); that of play is not known yet, and `synthq status` tells it"
    )


@pytest.mark.parametrize(
    ("caps", "said"),
    [
        ({"max_hours": 0.01}, "caps.max_hours: 0.01 is less than the 2.3 min that it is estimated to take"),
        ({"max_usd": 0.1, "usd_per_hour": 10}, "caps.max_usd: 0.1 (36 s at usd_per_hour = 10) is less than the 2.3 min"),
    ],
)
def test_an_estimate_beyond_a_cap_is_a_caution_and_an_event(api: TestClient, base: str, caps: Json, said: str) -> None:
    learnt_from_play(submitted(api, "rl", rl_tables(base)))
    (caution,) = ask(api, "rl", rl_tables(base, caps=caps))["cautions"]
    assert caution.startswith(said)
    assert caution.endswith("so it would end after about 1 iteration of 5")
    job = api.post("/v1/jobs", json={"kind": "rl", "spec": rl_tables(base, caps=caps)}).json()
    assert caution in job["warnings"]
    events = api.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert caution in [event["message"] for event in events if event["type"] == "spec.warning"]
    (estimated,) = [event for event in events if event["type"] == "job.estimated"]
    assert estimated["message"].startswith("estimated time: about 2.3 min")
    assert ask(api, "rl", rl_tables(base, caps={"max_hours": 1}))["cautions"] == []


def test_only_trainings_are_estimated(api: TestClient) -> None:
    refused = api.post("/v1/estimate", json={"kind": "eval", "spec": {"eval": {"seeds": "0-1"}}})
    assert refused.status_code == 422
    assert "only trainings are estimated" in refused.text


def test_lines_that_a_filter_has_yet_to_make_are_not_counted(api: TestClient, base: str) -> None:
    told = ask(api, "sft", {"sft": {"model": base, "data": "not-there"}})
    assert "how many is known when not-there has made its lines" in sentence(told, "steps")
    with db.reading() as session:
        assert session.get(Job, "not-there") is None


def test_each_of_several_processes_holds_its_part_of_weights_that_are_dealt_out(api: TestClient, base: str) -> None:
    def held(mode: str, sharding: str) -> tuple[Json, str]:
        table = {"model": base, "data": "job_x", "trainer_mode": mode, "sharding": sharding}
        found = ask(api, "sft", {"sft": table}, lines=100)
        (said,) = [each for each in found["said"] if each.startswith("memory of the trainer on each of 4 GPUs: ")]
        return dict(found["figures"]["trainer"]["gpu"]["bytes"]), said

    with use_settings(SYNTHQ_TRAINER_DEVICES="4"):
        whole, _ = held("full", "none")
        parts, said = held("full", "fsdp")
        assert "1 of 4 parts of the weights" in said
        assert parts["1 of 4 parts of the weights"] == -(-whole["weights"] // 4)
        assert parts["optimizer"] < whole["optimizer"] / 3.9
        adapted, _ = held("lora", "none")
        shared, _ = held("lora", "fsdp")
        for name in ("adapter", "gradients", "optimizer"):
            assert shared[name] == adapted[name], "an adapter is whole on each"
        assert shared["1 of 4 parts of the weights"] == -(-(adapted["weights"] - shared["vision tower"]) // 4)


def test_rounds_of_dagger_are_more_samples_and_more_pictures_but_no_longer_passes(api: TestClient, base: str) -> None:
    plain, rounds = (ask(api, "rl", rl_tables(base, dagger={"rounds": rounds})) for rounds in (0, 3))
    assert rounds["figures"]["samples"] > plain["figures"]["samples"]
    most = [found["figures"]["trainer"]["cpu"]["at_most"] for found in (plain, rounds)]
    assert most[1]["pictures read"] == 3 * most[0]["pictures read"]
    (name,) = [part for part in most[0] if part.startswith("a pass of ")]
    assert most[1][name] == most[0][name]


def test_a_base_in_four_bits_is_told_as_that_on_a_gpu(api: TestClient, base: str) -> None:
    figures = [ask(api, "rl", rl_tables(base, model={"trainer_mode": mode}))["figures"]["trainer"] for mode in ("lora", "qlora")]
    lora, qlora = (each["gpu"]["bytes"]["weights"] for each in figures)
    assert qlora < lora
    assert figures[0]["cpu"]["bytes"] == figures[1]["cpu"]["bytes"], "bitsandbytes is for GPUs"
