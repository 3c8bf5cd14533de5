from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from app import engines, procfile
from app.errors import BadFlag, Conflict, InvalidInput, NotHere
from app.settings import get_settings
from app.supervisor import facts
from app.supervisor.plan import Options, Plan, choose_port, make, workers_flag

PROCFILE = """
# the parts
api: python -m app.main
rollout: python -m workers.main rollout
trainer: python -m workers.main no-such-role
elsewhere: python -m app.no_such_module
"""


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "Procfile"
    path.write_text(PROCFILE)
    return path


def names(path: Path, **asked: object) -> list[str]:
    options = Options(procfile=path, **asked)  # type: ignore[arg-type]
    return [planned.name for planned in make(options, get_settings()).processes]


def test_python_in_the_procfile_is_the_python_that_runs(listed: Path) -> None:
    assert procfile.read(listed)[0].argv == (sys.executable, "-m", "app.main")


def test_a_worker_role_becomes_as_many_processes_as_asked(listed: Path) -> None:
    assert names(listed) == ["api", "rollout-1", "rollout-2"]
    assert names(listed, workers={"rollout": 1}) == ["api", "rollout-1"]
    assert names(listed, workers={"rollout": 0}) == ["api"]


def test_a_role_whose_code_is_not_there_is_left_out_and_said(listed: Path) -> None:
    skipped = make(Options(procfile=listed), get_settings()).skipped

    assert [sentence.partition(":")[0] for sentence in skipped] == ["trainer", "elsewhere"]
    assert "workers.no-such-role" in skipped[0]
    assert "app.no_such_module" in skipped[1]


@pytest.fixture
def with_inference(tmp_path: Path) -> Path:
    path = tmp_path / "Procfile"
    path.write_text("api: python -m app.main\ninference: python -m workers.main inference\n")
    return path


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """This machine can start these engines and no other."""
    monkeypatch.setattr(engines, "why_not", lambda name: None if name in names else f"no {name} here")


def test_one_inference_worker_runs_where_an_engine_is_installed(with_inference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "transformers")

    assert names(with_inference) == ["api", "inference-1"]
    assert names(with_inference, workers={"inference": 2}) == ["api", "inference-1", "inference-2"]


def test_without_an_engine_it_is_left_out_and_what_would_bring_one_is_said(
    with_inference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch)

    plan = make(Options(procfile=with_inference), get_settings())
    assert [planned.name for planned in plan.processes] == ["api"]
    assert plan.skipped == ("inference: no model can be served without torch and transformers; `make install` brings them",)

    asked = make(Options(procfile=with_inference, workers={"inference": 1}), get_settings())
    assert asked.skipped == ("inference: no engine can be started here: no transformers here; no vllm here",)
    assert make(Options(procfile=with_inference, workers={"inference": 0}), get_settings()).skipped == ()


def test_the_engine_that_was_asked_for_is_the_one_that_is_missed(with_inference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "transformers")
    monkeypatch.setenv("SYNTHQ_ENGINE", "vllm")
    get_settings.cache_clear()

    plan = make(Options(procfile=with_inference), get_settings())

    assert plan.skipped == ("inference: engine vllm cannot be started here: no vllm here",)


@pytest.mark.parametrize(
    ("present", "count", "shares"),
    [
        ("0,1,2,3", 1, [None]),
        ("0,1,2,3", 2, ["0,1", "2,3"]),
        ("4,5,7", 2, ["4,5", "7"]),
        ("4,5", 3, ["4", "5", "4"]),
        ("", 2, [None, None]),
    ],
)
def test_inference_workers_share_the_gpus_out_among_them(
    with_inference: Path, monkeypatch: pytest.MonkeyPatch, present: str, count: int, shares: list[str | None]
) -> None:
    installed(monkeypatch, "transformers")
    monkeypatch.setattr(engines, "_gpu_names", lambda: present.split(",") if present else [])

    plan = make(Options(procfile=with_inference, workers={"inference": count}), get_settings())

    assert [planned.env.get("CUDA_VISIBLE_DEVICES") for planned in plan.processes if planned.name != "api"] == shares


@pytest.fixture
def with_trainer(tmp_path: Path) -> Path:
    path = tmp_path / "Procfile"
    path.write_text("".join(f"{name}: python -m workers.main {name}\n" for name in ("rollout", "inference", "trainer")))
    return path


def test_one_trainer_runs_where_torch_is_installed_and_else_it_is_said_what_brings_one(
    with_trainer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "transformers")
    assert names(with_trainer) == ["rollout-1", "rollout-2", "inference-1", "trainer-1"]

    installed(monkeypatch, "vllm")  # in an environment of its own, which is of no use here
    plan = make(Options(procfile=with_trainer), get_settings())
    assert [planned.name for planned in plan.processes] == ["rollout-1", "rollout-2", "inference-1"]
    assert plan.skipped == ("trainer: no model can be trained without torch and transformers; `make install` brings them",)
    asked = make(Options(procfile=with_trainer, workers={"trainer": 1}), get_settings())
    assert asked.skipped == ("trainer: no transformers here",)
    assert make(Options(procfile=with_trainer, workers={"trainer": 0}), get_settings()).skipped == ()


@pytest.mark.parametrize(
    ("present", "workers", "devices", "serve", "train"),
    [
        ("0", {}, 1, [None], [None]),
        ("0,1", {}, 1, ["0"], ["1"]),
        ("0,1,2,3", {}, 1, ["0,1,2"], ["3"]),
        ("0,1,2,3", {"inference": 2}, 2, ["0", "1"], ["2,3"]),
        ("4,5,7", {"trainer": 2}, 1, ["4"], ["5", "7"]),
        ("0,1", {"trainer": 2}, 1, [None], ["0", "1"]),
        ("0,1", {}, 2, [None], [None]),
        ("0,1,2", {"trainer": 2}, 2, [None], ["0,1", "2,0"]),
        ("0,1", {"inference": 0}, 1, [], ["0"]),
        ("0,1", {"trainer": 0, "inference": 2}, 1, ["0", "1"], []),
        ("", {"trainer": 2}, 1, [None], [None, None]),
    ],
)
def test_trainers_have_gpus_to_themselves_where_there_are_enough(
    with_trainer: Path,
    monkeypatch: pytest.MonkeyPatch,
    present: str,
    workers: dict[str, int],
    devices: int,
    serve: list[str | None],
    train: list[str | None],
) -> None:
    installed(monkeypatch, "transformers")
    monkeypatch.setattr(engines, "_gpu_names", lambda: present.split(",") if present else [])
    monkeypatch.setenv("SYNTHQ_TRAINER_DEVICES", str(devices))
    get_settings.cache_clear()

    plan = make(Options(procfile=with_trainer, workers=workers), get_settings())

    shares = [(planned.role.name, planned.env.get("CUDA_VISIBLE_DEVICES")) for planned in plan.processes]
    assert [share for name, share in shares if name == "inference"] == serve
    assert [share for name, share in shares if name == "trainer"] == train
    assert {share for name, share in shares if name == "rollout"} == {None}


@pytest.mark.parametrize(
    ("there", "gpus", "setting", "wanted", "chosen"),
    [
        (("transformers", "vllm"), 0, "auto", "auto", "transformers"),
        (("transformers", "vllm"), 1, "auto", "auto", "vllm"),
        (("transformers", "vllm"), 0, "auto", "vllm", "vllm"),
        (("vllm",), 0, "auto", "auto", "vllm"),
        (("transformers",), 1, "auto", "auto", "transformers"),
        (("transformers", "vllm"), 1, "transformers", "auto", "transformers"),
    ],
)
def test_the_engine_is_the_one_asked_for_or_what_suits_the_machine(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], gpus: int, setting: str, wanted: str, chosen: str
) -> None:
    installed(monkeypatch, *there)
    monkeypatch.setattr(engines, "gpus", lambda: gpus)
    monkeypatch.setenv("SYNTHQ_ENGINE", setting)
    get_settings.cache_clear()

    assert engines.choose(wanted) == chosen


def test_a_worker_held_to_one_engine_refuses_the_other_with_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "transformers", "vllm")
    monkeypatch.setenv("SYNTHQ_ENGINE", "transformers")
    get_settings.cache_clear()

    with pytest.raises(NotHere, match=r"asks for engine vllm, and this worker starts transformers alone"):
        engines.choose("vllm")


def test_a_vllm_python_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SYNTHQ_VLLM_PYTHON", str(tmp_path))
    get_settings.cache_clear()

    with pytest.raises(NotHere, match=f"SYNTHQ_VLLM_PYTHON={tmp_path} is no program"):
        engines.choose("vllm")


def test_only_runs_what_it_names(listed: Path) -> None:
    assert names(listed, only=("rollout",)) == ["rollout-1", "rollout-2"]


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ({"only": ("rollouts",)}, "did you mean 'rollout'?"),
        ({"workers": {"rolout": 2}}, "did you mean 'rollout'?"),
        ({"workers": {"api": 2}}, "known: rollout, trainer"),
        ({"only": ("trainer",)}, "nothing to run"),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_nearest(listed: Path, asked: dict[str, object], hint: str) -> None:
    with pytest.raises(BadFlag, match=hint.replace("?", r"\?")):
        names(listed, **asked)


def test_worker_counts_come_singly_or_in_a_list() -> None:
    assert workers_flag(["rollout=2,trainer=1", "inference=3"]) == {"rollout": 2, "trainer": 1, "inference": 3}


@pytest.mark.parametrize("word", ["rollout", "rollout=", "rollout=-1", "rollout=two", "=2"])
def test_a_count_that_is_none_is_refused_with_its_word(word: str) -> None:
    with pytest.raises(BadFlag, match=word):
        workers_flag([word])


@pytest.mark.parametrize("line", ["no colon here", "api:", "two words: python -m app.main"])
def test_a_line_that_is_no_process_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "Procfile"
    path.write_text(f"api: python -m app.main\n{line}\n")

    with pytest.raises(InvalidInput, match=r"Procfile:2: "):
        procfile.read(path)


def test_a_name_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "Procfile"
    path.write_text("api: python -m app.main\napi: python -m app.main\n")

    with pytest.raises(InvalidInput, match="'api' is listed twice"):
        procfile.read(path)


def test_a_port_that_is_taken_is_refused_with_the_variable_that_changes_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Conflict, match=rf"port {port} .* SYNTHQ_API_PORT"):
            choose_port("127.0.0.1", port)

    assert choose_port("127.0.0.1", port) == port
    assert choose_port("127.0.0.1", 0) > 0


TASK_APP = "task-app: python -m workers.rollout.task_app\n"


@pytest.fixture
def with_task_app(tmp_path: Path) -> Path:
    path = tmp_path / "with-task-app"
    path.write_text(PROCFILE + TASK_APP)
    return path


def set_and_plan(path: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Plan:
    for name, value in variables.items():
        monkeypatch.setenv(f"SYNTHQ_TASK_APP_{name}", value)
    get_settings.cache_clear()
    return make(Options(procfile=path, only=("api", "task-app")), get_settings())


def test_the_task_app_runs_beside_the_api_and_is_told(with_task_app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = set_and_plan(with_task_app, monkeypatch, PORT=str(choose_port("127.0.0.1", 0)), HOST="0.0.0.0", KEYS="secret")

    assert [planned.name for planned in plan.processes] == ["api", "task-app"]
    told = facts.gather(plan, get_settings())
    assert told["task-app"] == f"http://127.0.0.1:{get_settings().task_app_port}"
    assert "secret" not in str(told)


def test_a_task_app_whose_port_is_taken_or_0_is_left_out_and_said(with_task_app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set_and_plan(with_task_app, monkeypatch, PORT="0").skipped == ("task-app: left out on request",)
    with socket.create_server(("127.0.0.1", 0)) as other:
        plan = set_and_plan(with_task_app, monkeypatch, PORT=str(other.getsockname()[1]))
    assert "SYNTHQ_TASK_APP_PORT gives it another one" in plan.skipped[0]
    assert [planned.name for planned in plan.processes] == ["api"]


def test_a_task_app_that_is_open_to_others_needs_a_key(with_task_app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENVIRONMENT_API_KEY", raising=False)
    with pytest.raises(BadFlag, match="open to others and the task app has no key"):
        set_and_plan(with_task_app, monkeypatch, HOST="0.0.0.0", PORT="1")
    with pytest.raises(BadFlag, match=r"SYNTHQ_TASK_APP_HOST=203\.0\.113\.7 is no address of this machine"):
        set_and_plan(with_task_app, monkeypatch, HOST="203.0.113.7", KEYS="a", PORT="1")
