"""Models over the API: what a ref means when a job is submitted, what is refused there, and what is known of models then."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from core import model_folders
from fastapi.testclient import TestClient
from served import eval_tables

from app import db, endpoints
from app.endpoints import desired, publish
from app.models import Artifact, Endpoint, ModelUse
from app.retention.policy import past
from app.settings import get_settings


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model_folders.base(tmp_path / "models" / "tiny")


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return model_folders.adapter(tmp_path / "models" / "lora", base)


def post(api: TestClient, *refs: object, dry_run: bool = False, **tables: Any) -> Any:
    """Submit an eval by these models."""
    spec = {**eval_tables(policies=[f"model:{ref}" for ref in refs]), **tables}
    return api.post("/v1/jobs", params={"dry_run": dry_run}, json={"kind": "eval", "spec": spec})


def submitted(api: TestClient, *refs: object, **tables: Any) -> str:
    response = post(api, *refs, **tables)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def problem(response: Any) -> tuple[str, str]:
    """The key and the sentence of a refusal's only problem."""
    assert response.status_code == 422, response.text
    (error,) = response.json()["errors"]
    return error["key"], error["message"]


def used(job_id: str, ref: object) -> ModelUse:
    with db.reading() as session:
        found = endpoints.use_of(session, job_id, f"model:{ref}")
        assert found is not None
        session.expunge(found)
        return found


def test_a_folder_is_a_base_under_its_whole_path(api: TestClient, base: Path):
    job = submitted(api, f"{base}/", vllm={"max_model_len": 1024})
    row = used(job, f"{base}/")
    assert (row.base, row.adapter, row.sha256, row.engine) == (str(base), "", "", "auto")
    assert row.options["max_model_len"] == 1024
    assert row.facts["kind"] == "base"
    assert row.facts["patch"] == 7


def test_an_adapter_is_known_by_its_content_and_brings_its_base(api: TestClient, base: Path, adapter: Path):
    row = used(submitted(api, adapter), adapter)
    assert (row.base, row.adapter_path) == (str(base), str(adapter))
    assert row.adapter == f"adapter-{row.sha256[:16]}"
    assert row.facts["rank"] == 4
    assert row.facts["base_facts"]["kind"] == "base"
    model_folders.write_weights(adapter / "adapter_model.safetensors", {f"{model_folders.LAYER}.lora_A.weight": (4, 2)}, byte=1)
    again = used(submitted(api, adapter), adapter)
    assert again.adapter != row.adapter, "other weights at the same place are another adapter"


def test_a_hub_id_is_taken_as_it_is(api: TestClient):
    row = used(submitted(api, "Qwen/Qwen3-VL-4B-Instruct"), "Qwen/Qwen3-VL-4B-Instruct")
    assert (row.base, row.facts) == ("Qwen/Qwen3-VL-4B-Instruct", {})


def test_an_adapter_on_a_model_of_the_hub_needs_no_folder_of_it(api: TestClient, tmp_path: Path):
    lora = model_folders.adapter(tmp_path / "lora", "Qwen/Qwen3-VL-4B-Instruct")
    assert used(submitted(api, lora), lora).base == "Qwen/Qwen3-VL-4B-Instruct"


def made_by(job: str, kind: str, folder: Path | None) -> str:
    """An artifact of a job that is a folder below the artifact root."""
    about: dict[str, Any] = {"sha256": "0" * 64, "bytes": 1, "created_at": 1.0}
    row = Artifact(id="art_000000000000", job_id=job, step_id="s", kind=kind, name="lora", path=f"{job}/lora", **about)
    if folder is not None:
        shutil.copytree(folder, Path(get_settings().artifacts) / row.path)
    with db.writing() as session:
        session.add(row)
    return "art_000000000000"


def test_an_artifact_that_is_an_adapter_is_named_by_its_id(api: TestClient, base: Path, adapter: Path):
    maker = submitted(api, base)
    id = made_by(maker, "adapter", adapter)
    user = submitted(api, id)
    row = used(user, id)
    assert (row.base, row.artifact) == (str(base), id)
    assert row.adapter_path == str(Path(get_settings().artifacts) / maker / "lora")
    known = api.get(f"/v1/models/{id}").json()
    assert (known["ref"], known["made_by"], known["used_by"]) == (id, maker, [user])


@pytest.mark.parametrize("kind", ["report", "adapter"])
def test_an_artifact_that_is_no_model_is_refused(api: TestClient, base: Path, kind: str):
    maker = submitted(api, base)
    id = made_by(maker, kind, None)
    key, sentence = problem(post(api, id))
    assert key == "eval.policies.0"
    why = (
        "is a report, not a model" if kind == "report" else "is no folder that is mounted here; engines read models from folders"
    )
    assert sentence == f"artifact {id} of job {maker} {why}"


def test_an_artifact_that_is_not_there_is_refused(api: TestClient):
    key, sentence = problem(post(api, "art_999999999999"))
    assert (key, sentence.split(";")[0]) == ("eval.policies.0", "no artifact matches 'art_999999999999'")


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_folder_that_is_not_there_or_no_model_is_refused_with_its_key(api: TestClient, tmp_path: Path, dry_run: bool):
    key, sentence = problem(post(api, tmp_path / "nowhere", dry_run=dry_run))
    assert key == "eval.policies.0"
    assert sentence.startswith(f"there is no folder '{tmp_path}/nowhere'")
    assert "has neither config.json" in problem(post(api, tmp_path, dry_run=dry_run))[1]


def test_a_path_from_somewhere_is_refused(api: TestClient):
    assert problem(post(api, "./tiny"))[1].endswith("write the whole path, or submit with --model, which finds it")


@pytest.mark.parametrize(
    ("config", "layer", "why"),
    [
        ({}, "base_model.model.model.visual.blocks.0.attn.qkv", "changes the vision tower (visual)"),
        ({"use_dora": True}, model_folders.LAYER, "is DoRA; engines serve plain LoRA"),
        (
            {"modules_to_save": ["lm_head"]},
            model_folders.LAYER,
            "holds whole layers beside its matrices (modules_to_save: lm_head)",
        ),
        ({"base_model_name_or_path": ""}, model_folders.LAYER, "does not say what it was trained on"),
        ({"base_model_name_or_path": "../tiny"}, model_folders.LAYER, "names its base as '../tiny'; write the whole path"),
        ({"base_model_name_or_path": "/nowhere/tiny"}, model_folders.LAYER, "there is no folder '/nowhere/tiny'"),
    ],
)
def test_an_adapter_that_no_engine_can_serve_is_refused(
    api: TestClient, tmp_path: Path, base: Path, config: dict[str, Any], layer: str, why: str
):
    lora = model_folders.adapter(tmp_path / "lora", base, layer=layer, **config)
    key, sentence = problem(post(api, lora))
    assert key == "eval.policies.0"
    assert why in sentence


def test_an_adapter_on_an_adapter_is_refused(api: TestClient, tmp_path: Path, adapter: Path):
    lora = model_folders.adapter(tmp_path / "lora", adapter)
    assert problem(post(api, lora))[1].endswith(f"names {adapter} as its base, which is an adapter itself")


def test_an_adapter_of_a_rank_beyond_what_is_served_is_refused_at_that_key(api: TestClient, tmp_path: Path, base: Path):
    lora = model_folders.adapter(tmp_path / "lora", base, rank=128)
    assert problem(post(api, lora)) == ("vllm.max_lora_rank", f"64 is below the rank of the adapter {lora}; write 128 or more")
    submitted(api, lora, vllm={"max_lora_rank": 128})


def test_every_model_that_cannot_be_served_is_told_at_once(api: TestClient, base: Path):
    response = post(api, "/nowhere/a", base, "/nowhere/b")
    assert [error["key"] for error in response.json()["errors"]] == ["eval.policies.0", "eval.policies.2"]
    assert api.get("/v1/jobs").json()["data"] == []


# -- what is known -------------------------------------------------------------------------------------------------------------


def serve(base: str, **adapters: str) -> str:
    """An endpoint that serves a base and adapters."""
    id = endpoints.register("inference-1", engines=["transformers"])
    loaded = {name: {"path": path, "sha256": ""} for name, path in adapters.items()}
    endpoints.report(id, state="ready", base=base, adapters=loaded, url="http://127.0.0.1:9", engine="transformers", capacity=4)
    return id


def test_models_are_listed_with_who_used_them_and_who_serves_them(api: TestClient, base: Path, adapter: Path):
    assert api.get("/v1/models").json() == {"object": "list", "data": []}
    first, second = submitted(api, base), submitted(api, base, adapter)
    id = serve(str(base))
    lora, whole = sorted(api.get("/v1/models").json()["data"], key=lambda each: each["kind"])
    assert (whole["ref"], whole["kind"], whole["used_by"], whole["served_by"]) == (str(base), "base", [second, first], [id])
    assert (lora["ref"], lora["base"], lora["used_by"], lora["served_by"]) == (str(adapter), str(base), [second], [])
    assert lora["name"] == f"adapter-{lora['sha256'][:16]}"
    serve(str(base), **{lora["name"]: str(adapter)})
    assert len(api.get(f"/v1/models/{lora['name']}").json()["served_by"]) == 1
    assert len(api.get("/v1/models", params={"limit": 1}).json()["data"]) == 1


@pytest.mark.parametrize("said", ["{path}", "model:{path}", "%2F{bare}"])
def test_a_model_is_found_by_its_folder_however_the_address_is_written(api: TestClient, base: Path, said: str):
    job = submitted(api, base)
    found = api.get(f"/v1/models/{said.format(path=base, bare=str(base)[1:].replace('/', '%2F'))}")
    assert found.status_code == 200, found.text
    assert (found.json()["ref"], found.json()["used_by"]) == (str(base), [job])


def test_a_folder_that_no_job_has_named_is_told_of_all_the_same(api: TestClient, adapter: Path, base: Path):
    found = api.get(f"/v1/models/{adapter}").json()
    assert (found["kind"], found["base"], found["used_by"], found["last_at"]) == ("adapter", str(base), [], None)
    assert found["facts"]["alpha"] == 8


def test_what_is_no_model_is_not_found_or_said_to_be_none(api: TestClient, tmp_path: Path):
    for ref in ("qwen", "job_x-v3", "art_999999999999", "a\0b", "adapter-0123"):
        answer = api.get(f"/v1/models/{ref.replace(chr(0), '%00')}")
        assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found"), ref
    assert api.get(f"/v1/models/{tmp_path}").status_code == 422
    assert api.get(f"/v1/models//{'x' * 300}").json()["code"] == "bad_model"
    assert "no query parameter named 'verbose'" in api.get(f"/v1/models/{tmp_path}?verbose=1").json()["detail"]


def test_published_versions_are_listed_while_they_are_in_service_and_found_for_ever(api: TestClient, base: Path):
    job = submitted(api, base)
    with db.writing() as session:
        publish.publish(session, job, str(base), "/versions/1", sha256="1" * 64)
    serve(str(base), **{f"{job}-v1": "/versions/1"})
    desired.tend()
    (version,) = [each for each in api.get("/v1/models").json()["data"] if each["kind"] == "version"]
    assert (version["ref"], version["state"], version["made_by"]) == (f"{job}-v1", "live", job)
    api.post(f"/v1/jobs/{job}/cancel")
    desired.tend()
    assert [each["kind"] for each in api.get("/v1/models").json()["data"]] == ["base"]
    assert api.get(f"/v1/models/{job}-v1").json()["state"] == "retired"


def test_endpoints_tell_what_they_serve_and_what_they_should(api: TestClient, base: Path):
    submitted(api, base)
    id = serve("/models/other")
    desired.tend()
    endpoints.failed(id, str(base), "out of memory")
    (row,) = api.get("/v1/endpoints").json()["data"]
    assert (row["id"], row["state"], row["base"], row["desired"]["base"]) == (id, "ready", "/models/other", str(base))
    assert row["failures"][str(base)]["reason"] == "out of memory"
    endpoints.stopped(id)
    assert api.get("/v1/endpoints").json()["data"] == []
    assert [each["state"] for each in api.get("/v1/endpoints?all=true").json()["data"]] == ["stopped"]


def test_an_endpoint_whose_worker_fell_silent_is_gone(api: TestClient, base: Path):
    id = serve(str(base))
    with db.writing() as session:
        session.get_one(Endpoint, id).heartbeat_at = 1.0
    assert api.get("/v1/endpoints").json()["data"] == []
    assert [each["state"] for each in api.get("/v1/endpoints?all=true").json()["data"]] == ["gone"]


def test_a_job_whose_artifact_an_open_job_plays_with_is_not_pruned(api: TestClient, base: Path, adapter: Path):
    maker = submitted(api, base)
    id = made_by(maker, "adapter", adapter)
    api.post(f"/v1/jobs/{maker}/cancel")
    with db.reading() as session:
        assert past(session, 1e-9) == [maker]
    submitted(api, id)
    with db.reading() as session:
        assert past(session, 1e-9) == []
