"""`submit rl`: its flags, what it begins from, what is told before, and what is shown after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from console import Ran, Synthq
from core import model_folders
from core.kit import job_events, steps, submit_noop, work_through
from sqlmodel import select

from app import artifacts, db
from app.models import Job, ModelUse
from cli import learned

FULL = Path(__file__).resolve().parents[2] / "configs" / "crafter_rl_vision_qwen3vl4b.toml"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A whole model."""
    return model_folders.base(tmp_path / "base")


def use_of(job_id: str) -> ModelUse:
    with db.reading() as session:
        (use,) = session.exec(select(ModelUse).where(ModelUse.job_id == job_id)).all()
        session.expunge(use)
        return use


def makes(kind: str, folder: Path, *, summary: bool = False) -> Job:
    """A job that ended and made a model."""
    made = submit_noop(name="maker")
    work_through()
    with db.writing() as session:
        row = artifacts.store_folder(folder, job_id=made.id, step_id="stp_1", kind=kind, name="made")
        artifacts.record(session, row)
        if summary:
            job = session.get(Job, made.id)
            assert job is not None
            job.summary = {"artifact": row.id}
    return made


def submit(served: Synthq, *flags: object) -> Ran:
    ran = served("submit", "rl", *flags)
    assert ran.code == 0, ran.err
    return ran


# -- before anything is sent ------------------------------------------------------------------------------------------------


def test_flags_are_values_of_the_spec(synthq: Synthq, base: Path) -> None:
    ran = synthq("submit", "rl", FULL, "--model", base, "--iterations", 50, "--env", "crafter", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    spec = ran.json["spec"]
    assert (spec["model"]["base"], spec["training"]["iterations"], spec["rollout"]["env"]) == (str(base), 50, "crafter")
    assert ran.json["name"] == "crafter-rl-vision-qwen3vl4b"


def test_a_dry_run_tells_what_it_would_come_to_and_what_is_done_otherwise(synthq: Synthq) -> None:
    ran = synthq("submit", "rl", FULL, "--iterations", 50, "--dry-run")
    assert ran.code == 0
    assert (
        "50 iterations, 200 episodes, 88 episodes of evaluation, 2,880 turns and 2,000 samples at the most, 50 optimizer steps; "
        "a dry run"
    ) in ran.err
    assert "warning: rollout.policy_config.top_p: 0.95 cuts off" in ran.err
    assert "warning: evaluation.every_n_iters" not in ran.err, "with 50 iterations it is reached"


def test_no_file_is_needed(synthq: Synthq, base: Path) -> None:
    ran = synthq("submit", "rl", "--model", base, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["spec"]["rollout"]["max_turns"] == 10


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "/m", "--data", "d.jsonl"], "--data is for sft"),
        (["--model", "/m", "--examples", "3"], "--examples is for sft"),
        (["--model", "gpt-4o"], "(from --model)"),
        (["--model", "/m", "--warmstart-from", "./nothing"], "there is no folder ./nothing"),
        ([], "the table [model] is needed"),
        (["--model", "/m", "--set", "training.group_size=5"], "cannot be dealt into groups of 5"),
    ],
)
def test_what_cannot_be_right_exits_2(synthq: Synthq, flags: list[str], said: str) -> None:
    ran = synthq("submit", "rl", *flags, "--dry-run")
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_train_takes_the_kind_from_the_file(synthq: Synthq, base: Path, tmp_path: Path) -> None:
    ran = synthq("train", "--config", FULL, "--model", base, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["kind"] == "rl"
    (tmp_path / "e.toml").write_text("[eval]\nseeds = 1\n")
    assert "write `synthq submit eval`" in synthq("train", "--config", tmp_path / "e.toml").err


# -- what is stored ---------------------------------------------------------------------------------------------------------


def test_a_fresh_adapter_is_a_line_of_the_job_on_its_base(served: Synthq, base: Path) -> None:
    job_id = submit(served, FULL, "--model", base).job_id
    use = use_of(job_id)
    assert (use.label, use.base, use.line) == (f"model:{base}", str(base), job_id)
    assert (use.adapter, use.adapter_path, use.sha256, use.artifact) == ("", "", "", "")
    assert use.options["max_model_len"] == 4096
    assert [step.key for step in steps(job_id)] == ["1/begin"]
    assert [step.queue for step in steps(job_id)] == ["trainer"]
    warned = [event.message for event in job_events(job_id) if event.type == "spec.warning"]
    assert any(text.startswith("training.weight_sync: ") for text in warned)


def test_a_folder_of_an_adapter_is_begun_from_on_its_own_base(served: Synthq, base: Path, tmp_path: Path) -> None:
    folder = model_folders.adapter(tmp_path / "adapter", on=base)
    use = use_of(submit(served, FULL, "--model", base, "--warmstart-from", folder).job_id)
    assert (use.base, use.adapter_path, use.adapter, use.label) == (str(base), str(folder), "", f"model:{folder}")
    alone = use_of(submit(served, "--warmstart-from", folder).job_id)
    assert (alone.base, alone.adapter_path) == (str(base), str(folder))


@pytest.mark.parametrize("summary", [False, True])
def test_a_job_is_begun_from_by_the_adapter_that_it_made(served: Synthq, base: Path, tmp_path: Path, summary: bool) -> None:
    made = makes("adapter", model_folders.adapter(tmp_path / "adapter", on=base), summary=summary)
    ran = submit(served, FULL, "--model", base, "--warmstart-from", "maker")
    use = use_of(job_id := ran.job_id)
    assert use.label == f"model:{made.id}", "by its id, for a name may come to mean another"
    assert use.base == str(base)
    assert (Path(use.adapter_path) / "adapter_config.json").is_file()
    assert use.artifact.startswith("art_")
    warned = [event.message for event in job_events(job_id) if event.type == "spec.warning"]
    assert any("keeps its rank 4, alpha 8 and layers" in text for text in warned)
    assert "keeps its rank 4, alpha 8 and layers" in ran.err, "what the server alone can know is told as well"
    assert ran.err.count("warning: training.weight_sync") == 1
    assert served("status", job_id, "--json").json["progress"] == {
        "done": 0,
        "failed": 0,
        "total": 3,
        "unit": "iterations",
        "cut_short": 0,
    }


def test_models_tell_the_base_of_an_rl_job_and_what_it_began_from_each_as_what_it_is(
    served: Synthq, base: Path, tmp_path: Path
) -> None:
    made = makes("adapter", model_folders.adapter(tmp_path / "adapter", on=base))
    submit(served, FULL, "--model", base, "--warmstart-from", made.id)
    known = {(each["kind"], each["ref"]) for each in served("models", "list", "--json").json["data"]}
    artifact = use_of(submit(served, FULL, "--model", base, "--warmstart-from", made.id).job_id).artifact
    assert known == {("base", str(base)), ("adapter", artifact)}


def test_a_job_that_made_a_whole_model_gives_the_base(served: Synthq, base: Path, tmp_path: Path) -> None:
    made = makes("model", model_folders.base(tmp_path / "other"))
    job_id = submit(served, FULL, "--model", base, "--warmstart-from", made.id).job_id
    use = use_of(job_id)
    assert use.base != str(base)
    assert (Path(use.base) / "config.json").is_file()
    assert use.adapter_path == ""
    assert any("which takes its place" in event.message for event in job_events(job_id))


def test_what_cannot_be_begun_from_is_refused_at_submit(served: Synthq, base: Path, tmp_path: Path) -> None:
    folder = model_folders.adapter(tmp_path / "adapter", on=base, rank=32)
    other = model_folders.base(tmp_path / "other")
    nothing = submit_noop(name="nothing")
    for flags, said in (
        (["--model", other, "--warmstart-from", folder], "an adapter fits its own base alone"),
        (["--model", base, "--warmstart-from", folder, "--set", "vllm.max_lora_rank=16"], "is below the rank of the adapter"),
        (["--model", base, "--warmstart-from", nothing.id], "has made no model"),
        (["--model", tmp_path / "none"], "there is no folder"),
    ):
        ran = served("submit", "rl", FULL, *flags)
        assert ran.code == 2, (flags, ran.err)
        assert said in ran.err
    ran = served("submit", "rl", "--model", base, "--env", "craftr")
    assert ran.code == 2
    assert "rollout.env: no environment named 'craftr' is installed" in ran.err


def test_a_job_that_nobody_knows_is_told_as_that(served: Synthq, base: Path) -> None:
    ran = served("submit", "rl", FULL, "--model", base, "--warmstart-from", "job_nothing")
    assert ran.code == 3
    assert "job_nothing" in ran.err


# -- what is shown ----------------------------------------------------------------------------------------------------------


def figure(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.5, "high": mean + 0.5}


def point(iteration: int, mean: float) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "episodes": 7,
        "asked": 8,
        "achievements": figure(mean),
        "crafter_score": figure(mean),
        "return": figure(mean),
        "outcomes": {"ok": 30, "parse_error": 10},
        "confidence": 0.95,
    }


def test_the_curve_the_gain_and_the_adapters_are_shown() -> None:
    summary = {
        "curve": [point(0, 1.0), point(10, 2.5), point(12, 2.0)],
        "best": {"iteration": 10},
        "gain": {"from": 0, "to": 12, "achievements": figure(1.0)},
        "iterations": {"asked": 50, "done": 12},
        "stopped": "2.00 hours are past the cap of 2",
        "artifact": "art_1",
        "best_artifact": "art_2",
    }
    text = "\n".join(learned.told(summary))
    assert "10       7 of 8    2.50 [2.00, 3.00]  2.50 [2.00, 3.00] %  2.50 [2.00, 3.00]  25.0%    best" in text
    assert text.count("best ") + text.count("best\n") == 2, "one row is the best, and one line tells its adapter"
    assert "from 0 to 12 updates: 1.00 [0.50, 1.50] achievements" in text
    assert "12 of 50 iterations, stopped: 2.00 hours are past the cap of 2" in text
    assert "last adapter  model:art_1" in text
    assert "best adapter  model:art_2" in text


def test_what_a_model_does_with_black_pictures_stands_beside_what_it_does() -> None:
    blind = point(10, 2.5) | {"blank": {"achievements": figure(1.25)}}
    header, first, second, *_ = learned.told({"curve": [point(0, 1.0), blind], "iterations": {"asked": 10, "done": 10}})
    assert header.index("ACHIEVEMENTS") < header.index("BLACK PICTURES") < header.index("CRAFTER SCORE")
    assert "1.00 [0.50, 1.50]  -                  1.00" in first
    assert "2.50 [2.00, 3.00]  1.25 [0.75, 1.75]  2.50" in second


def test_of_a_long_curve_both_ends_are_shown() -> None:
    lines = learned.told({"curve": [point(i, 1.0) for i in range(100)], "iterations": {"asked": 99, "done": 99}})
    assert [line.split()[0] for line in lines[1:22]] == [*map(str, range(10)), "...", *map(str, range(90, 100))]


def test_a_curve_without_figures_is_shown_as_that() -> None:
    empty = {"iteration": 0, "episodes": 0, "asked": 8, "achievements": {"mean": None}, "outcomes": {}}
    assert "-" in "\n".join(learned.told({"curve": [empty], "iterations": {"asked": 1, "done": 0}}))
