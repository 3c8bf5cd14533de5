"""rl from pictures as a user runs it: `synthq up`, the command line, a real engine, a real trainer; on a CPU, offline.

The tiny model is first shown a little of the expert's play, for what never says an action never earns anything. Everything is
read through the command line and HTTP, but the trainer's checkpoints, which are files of its own.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integration.up_and_running import Running, until, up
from PIL import Image
from task_app.task_app_kit import Running as TaskApp
from task_app.task_app_kit import nested

pytest.importorskip("torch", reason="engine and trainer need the extra 'model'")

from peft import PeftModel
from safetensors.torch import load_file
from trainer.learner_kit import TOLERANCE, plain_logprobs

from app.model_folder import adapter_sha256
from workers.model.loading import Loaded, load
from workers.trainer.samples import Sample

pytestmark = [pytest.mark.slow, pytest.mark.acceptance, pytest.mark.vision, pytest.mark.integration]

REPOSITORY = Path(__file__).resolve().parents[3]
FULL = REPOSITORY / "configs" / "crafter_rl_vision_qwen3vl4b.toml"
SMALL = REPOSITORY / "tests" / "artifacts" / "configs" / "rl.vision.small.toml"
PENALTY = ("--set", "rollout.invalid_penalty=-0.1")
AS_TAUGHT = (
    *("--set", "rollout.reply_format=text"),
    *("--set", "rollout.policy_config.rules=bare"),
    *("--set", "rollout.policy_config.max_actions=1"),
    *("--set", "rollout.policy_config.max_tokens=4"),
    *("--set", "rollout.env_config.image_size=63"),
)
"""Play in the way that the model was taught."""
PATIENCE_S = 240.0
SEES = 1e-4
"""Nats by which black pictures change what a model that looks at them finds likely; rounding changes it by 1e-6."""
Json = dict[str, Any]


@pytest.fixture(scope="module")
def synthq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running synthq with engine and trainer, and the command line in an empty folder."""
    env = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with up(tmp_path_factory.mktemp("home") / "h", tmp_path_factory.mktemp("user"), **env) as running:
        yield running


@pytest.fixture(scope="module")
def taught(synthq: Running, tiny_model: Path) -> str:
    """The artifact of the tiny model after a few steps on the expert's play: it mostly says actions, and not always."""
    configs = REPOSITORY / "configs"
    played = ["submit", "eval", str(configs / "eval_tiny_expert.toml"), "--seeds", "20000-20005"]
    synthq(*played, "--set", "eval.max_turns=100")
    synthq("submit", "filter", str(configs / "filter_tiny.toml"), "--after", "ok:tiny-expert")
    synthq("wait", "tiny-lines", "--timeout", f"{PATIENCE_S:g}s", timeout_s=PATIENCE_S)
    few = {"max_steps": 14, "batch_size": 32, "learning_rate": 3e-3, "sequence_length": 256}
    sets = [word for key, value in few.items() for word in ("--set", f"sft.{key}={value}")]
    learn = ["train", "--type", "sft", "--config", str(configs / "sft_tiny.toml"), "--model", str(tiny_model), *sets]
    synthq(*learn, "--watch", timeout_s=PATIENCE_S)
    (made,) = artifacts(synthq, "tiny-sft", "model")
    return str(made["id"])


@pytest.fixture(scope="module")
def base(synthq: Running, taught: str) -> Loaded:
    """The taught model in this process, as transformers has it, from what the command line gives out."""
    synthq("models", "export", taught, "taught")
    return load(synthq.folder / "taught", device="cpu")


@pytest.fixture(scope="module")
def key() -> str:
    return "env-key-31415926"


@pytest.fixture(scope="module")
def task_app(tmp_path_factory: pytest.TempPathFactory, key: str) -> Iterator[TaskApp]:
    """The task app with a key."""
    running = TaskApp(tmp_path_factory.mktemp("app"), ENVIRONMENT_API_KEY=key, SYNTHQ_TASK_APP_PROCESSES="1")
    yield running
    running.end()


# -- what became of a job ------------------------------------------------------------------------------------------------------


def artifacts(synthq: Running, job: str, kind: str) -> list[Json]:
    return [each for each in synthq("artifacts", job, "--json").json["data"] if each["kind"] == kind]


def job_id(said: str) -> str:
    """As the scripts of the project that synthq follows look for it."""
    found = re.search(r"job[_-]id\s*[:=]\s*(\w+)", said)
    assert found is not None, said
    return found[1]


def episodes(synthq: Running, job: str) -> list[Json]:
    found: list[Json] = synthq("traces", "list", "--job", job, "--all", "--json").json["data"]
    return found


def figures(synthq: Running, job: str, scope: str) -> dict[int, dict[str, float]]:
    points = synthq("metrics", job, "--scope", scope, "--json").json["data"]
    return {point["index"]: point["values"] for point in points}


def turns(synthq: Running, episode: Json) -> list[tuple[Json, bytes]]:
    """Each turn of an episode, with the picture that its prompt had."""
    told = synthq("traces", "show", episode["id"], "--json").json["turn_list"]
    synthq("traces", "export", episode["id"], "--output", "turns.jsonl")
    lines = [json.loads(line) for line in (synthq.folder / "turns.jsonl").read_text().splitlines()]
    found = []
    for turn, line in zip(told, lines, strict=True):
        (image,) = [part for message in line["messages"] for part in message["parts"] if part["type"] == "image"]
        found.append((turn, base64.b64decode(image["url"].removeprefix("data:image/png;base64,"), validate=True)))
    return found


def sample(model: Loaded, turn: Json, png: bytes, temperature: float) -> Sample:
    """A stored turn as the trainer reads it."""
    asked, said = tuple(turn["prompt_ids"]), tuple(turn["output_ids"])
    places = tuple(range(len(asked), len(asked) + len(said)))
    return Sample(key="turn", ids=asked + said, targets=places, pictures=(model.images.read(png),), temperature=temperature)


def check_pictures_reached_the_model(synthq: Running, model: Loaded, episode: Json, frame: int) -> None:
    """Every prompt holds as many image tokens as its picture has, and pictures differ as the world does."""
    shown = turns(synthq, episode)
    for turn, png in shown:
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.size == (frame, frame)
        tokens = model.images.read(png).tokens(model.merge)
        assert turn["prompt_ids"].count(model.image_id) == tokens > 0
        assert len(turn["output_ids"]) == len(turn["logprobs"]) > 0


def check_versions(synthq: Running, job: str, rows: list[Json]) -> str:
    """Training and the first evaluation were played by version 1, the last evaluation by version 2, which has other weights.

    Gives the hash of version 2.
    """
    runs = synthq.home / "runs" / job
    first, last = runs / "begin" / "adapter", runs / "iter-0" / "adapter"
    one, two = adapter_sha256(first), adapter_sha256(last)
    played = {(row["split"], row["iteration"]): row["policy_version"] for row in rows}
    assert played == {
        ("train", 0): f"{job}-v1@{one[:12]}",
        ("evaluation", 0): f"{job}-v1@{one[:12]}",
        ("evaluation", 1): f"{job}-v2@{two[:12]}",
    }
    before, after = load_file(first / "adapter_model.safetensors"), load_file(last / "adapter_model.safetensors")
    assert set(before) == set(after)
    moved = [name for name in before if not bool((before[name] == after[name]).all())]
    assert moved, "an update that trained changed weights"
    assert all(bool(weight.isfinite().all()) for weight in after.values())
    return two


def check_plain_peft_answers_as_the_engine(synthq: Running, model: Loaded, row: Json, version: str, temperature: float) -> None:
    """The job's adapter is downloaded and loaded by peft alone, and finds a reply as likely as the engine that gave it."""
    job = row["job_id"]
    (kept,) = artifacts(synthq, job, "adapter")
    synthq("artifacts", job, "--download", job)
    folder = synthq.folder / job / kept["name"]
    assert adapter_sha256(folder) == version
    turn, png = turns(synthq, row)[0]
    one = sample(model, turn, png, temperature)
    bare = plain_logprobs(model.model, model, one)
    theirs = PeftModel.from_pretrained(model.model, folder).eval()
    try:
        told = plain_logprobs(theirs.base_model.model, model, one)
    finally:
        theirs.unload()
    assert np.abs(told - np.array(turn["logprobs"])).max() < 10 * TOLERANCE
    assert np.abs(told - bare).max() > 0, "the adapter changes what the model says"


# -- the three tests -----------------------------------------------------------------------------------------------------------


def test_cli_train_rl_vision_qwen3vl4b(synthq: Running, taught: str, base: Loaded) -> None:
    shorter = ("--iterations", "1", "--set", "rollout.batches_per_step=4")
    words = ["train", "--type", "rl", "--config", str(FULL), "--model", taught, *shorter, *AS_TAUGHT, *PENALTY]
    created = synthq(*words)
    assert "✓ Job created" in created.out
    job = job_id(created.out)
    synthq("wait", job, "--timeout", f"{PATIENCE_S:g}s", timeout_s=PATIENCE_S)

    rows = episodes(synthq, job)
    assert {row["state"] for row in rows} == {"done"}
    train = [row for row in rows if row["split"] == "train"]
    assert (len(train), len(rows) - len(train)) == (8, 16), "an iteration, and an evaluation on 8 seeds before and after it"
    assert not {row["seed"] for row in train} & {row["seed"] for row in rows if row["split"] == "evaluation"}
    check_pictures_reached_the_model(synthq, base, train[0], frame=63)

    (update,) = figures(synthq, job, "update").values()
    returns = [row["returns"]["consistent"] for row in train]
    assert update["return"] == pytest.approx(np.mean(returns))
    assert len(set(returns)) > 1, "rewards came back, and not the same to all"
    assert update["groups"] == 4
    assert update["flat_share"] < 1
    assert update["optimizer_steps"] >= 1
    assert 0 < update["samples_trained"] <= update["samples"] == sum(row["turns"] for row in train)
    assert update["grad_norm"] > 0
    assert update["parity/kl"] < 1e-6, "engine and trainer have the same model before the first update"
    assert update["blank_difference"] > SEES, "black pictures are not what it was shown"
    tried = figures(synthq, job, "eval")
    assert [tried[updates]["episodes"] for updates in (0, 1)] == [8, 8]

    version = check_versions(synthq, job, rows)
    last = next(row for row in rows if (row["split"], row["iteration"]) == ("evaluation", 1))
    check_plain_peft_answers_as_the_engine(synthq, base, last, version, temperature=0.6)
    (kept,) = artifacts(synthq, job, "adapter")
    played = ["submit", "eval", "--policy", f"model:{kept['id']}", "--seeds", "100-101", "--name", "plays", "--watch"]
    as_taught = [word.replace("rollout.", "eval.") for word in AS_TAUGHT]
    synthq(*played, "--set", "eval.max_turns=3", *as_taught, timeout_s=PATIENCE_S)
    assert {row["policy_version"].split("@")[1] for row in episodes(synthq, "plays")} == {version[:12]}


def test_task_app_vision_support(synthq: Running, taught: str, base: Loaded, task_app: TaskApp, key: str) -> None:
    assert task_app.http.get("/health").json() == {"healthy": True, "auth": {"required": True}}
    watched = ["submit", "eval", "--model", taught, "--seeds", "0", "--set", "eval.max_turns=1", "--watch"]
    synthq(*watched, "--policy-config", '{"max_tokens": 4}', timeout_s=PATIENCE_S)  # the engine stays with the model for minutes
    (served,) = until(lambda: endpoints(synthq), "an engine serves the model", timeout_s=PATIENCE_S)
    config = {"model": served["base"], "inference_url": f"{served['url']}/v1", "max_tokens": 8}
    config |= {"use_vision": True, "image_only_mode": True}

    def body(side: int = 64) -> Json:
        more = {"env_config": {"image_size": side}, "record": {"return_trace": True}}
        return nested(seed=3, policy="crafter-react", turns=3, config=dict(config), **more)

    prompts, pictures = [], []
    for side in (64, 128):
        answered = task_app.rollout(body(side), headers={"X-API-Key": key})
        assert answered.status_code == 200, answered.text
        told = answered.json()
        assert (told["aborted"], told["error"], told["metrics"]["num_steps"]) == (False, None, 3)
        shown = pictures_of(told["trace"])
        for png in shown:
            with Image.open(io.BytesIO(png)) as picture:
                assert picture.size == (side, side)
        pictures += [base.images.read(png).tokens(base.merge) for png in shown]
        used = [step["info"]["meta"]["usage"] for step in told["trajectories"][0]["steps"]]
        assert not any(usage["estimated"] for usage in used), "the engine counted them"
        prompts += [usage["input_tokens"] for usage in used]
    assert len(set(pictures)) == 2
    beside = {prompt - picture for prompt, picture in zip(prompts, pictures, strict=True)}
    assert len(beside) == 1, "prompts are as long as their pictures make them, so the model was given those"
    assert min(beside) > 0

    for each in (body(), {}, {"anything": 1}):
        for headers in ({}, {"X-API-Key": f"{key}0"}):
            assert task_app.rollout(each, headers=headers).status_code == 401
    for wrong in ({}, {"anything": 1}, body() | {"env": None}, body() | {"ops": "agent"}, [body()], "text"):
        refused = task_app.rollout(wrong, headers={"X-API-Key": key})  # type: ignore[arg-type]
        assert 400 <= refused.status_code < 500, (wrong, refused.text)
    config["use_vision"] = False
    refused = task_app.rollout(body(), headers={"X-API-Key": key})
    assert (refused.status_code, "image_only_mode" in refused.text) == (422, True)


def pictures_of(trace: Json) -> list[bytes]:
    """The picture of each turn, whose prompt shows it and nothing else of the world."""
    found = []
    for turn in trace["turns"]:
        assert json.loads(turn["messages"]) == [{"role": "user", "parts": [{"type": "image", "sha256": turn["frame"]}]}]
        found.append(base64.b64decode(trace["frames"][turn["frame"]], validate=True))
    return found


def endpoints(synthq: Running) -> list[Json]:
    found = synthq("models", "endpoints", "--json").json["data"]
    return [each for each in found if each["state"] == "ready" and each["base"]]


def test_cli_train_rl_vision_small_config(synthq: Running, taught: str, base: Loaded) -> None:
    words = ["train", "--type", "rl", "--config", str(SMALL), "--model", taught, "--name", "small", *PENALTY]
    watched = synthq(*words, "--watch", timeout_s=PATIENCE_S)
    job = job_id(watched.out)
    assert synthq.job(job)["state"] == "succeeded"
    assert "1 of 1 iterations" in watched.out

    rows = episodes(synthq, job)
    (train,) = [row for row in rows if row["split"] == "train"]
    assert (train["turns"], len(rows)) == (3, 5)
    check_pictures_reached_the_model(synthq, base, train, frame=64)
    (update,) = figures(synthq, job, "update").values()
    assert update["return"] == pytest.approx(train["returns"]["consistent"])
    assert update["return"] < 0, "it was taught to say a word, and is asked for a call"
    assert (update["groups"], update["optimizer_steps"], update["samples_trained"]) == (1, 1, 3), "one alone teaches as well"
    assert update["parity/kl"] < 1e-6
    assert update["blank_difference"] > SEES
    assert {at: values["episodes"] for at, values in figures(synthq, job, "eval").items()} == {0: 2, 1: 2}
    version = check_versions(synthq, job, rows)
    last = next(row for row in rows if (row["split"], row["iteration"]) == ("evaluation", 1))
    check_plain_peft_answers_as_the_engine(synthq, base, last, version, temperature=0.8)
