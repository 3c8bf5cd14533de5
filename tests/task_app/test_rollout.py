"""A rollout is the episode that a worker would play, told in the contract's words, and it ends when it should."""

from __future__ import annotations

import json
from typing import Any

import pytest
from play.stand_in import StandIn, calls, status, text
from task_app_kit import flat, locally, nested, played

from workers.rollout import policies
from workers.rollout.policies.scripted import Scripted
from workers.rollout.rewards import RewardOptions
from workers.transport import trace

TRACED = {"record": {"return_trace": True}}
DIES = {"seed": 1, "policy_name": "random"}


@pytest.fixture(autouse=True)
def other_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Stuck", "Broken", "Bug", "Mumbler"):
        monkeypatch.setitem(policies.POLICIES, name.lower(), f"task_app_policies:{name}")


@pytest.mark.parametrize("policy", ["random", "scripted", "scripted:omniscient", "scripted:reactive"])
@pytest.mark.parametrize("config", [{}, {"use_vision": False}, {"image_only_mode": True}], ids=["vision", "text", "image-only"])
def test_it_is_the_episode_that_a_worker_plays(policy: str, config: dict[str, Any]) -> None:
    body = flat(3, policy_name=policy, max_turns=25, policy_config=config, **TRACED)

    told = played(body)
    turns, frames, figures = locally(body)
    steps, sent = told["trajectories"][0]["steps"], trace.unpack(told["trace"])
    assert [step["info"]["actions"] for step in steps] == [list(turn.actions) for turn in turns]
    assert [step["reward"] for step in steps] == [turn.reward for turn in turns]
    assert [step["obs"]["frame"] for step in steps] == [turn.frame for turn in turns]
    assert {frame.sha256: frame.png for frame in sent.frames} == {frame.sha256: frame.png for frame in frames}
    assert sent.episode["sha256"] == figures["sha256"]
    assert told["trajectory"] == told["trajectories"][0]
    assert all((step["obs"]["text"] is None) == ("image_only_mode" in config) for step in steps)


def test_text_tells_the_world_before_the_action() -> None:
    told = played(flat(3, max_turns=3))
    texts = [step["obs"]["text"] for step in told["trajectory"]["steps"]] + [told["trajectory"]["final"]["observation"]["text"]]

    assert "health 9" in texts[0]
    assert "Unlocked so far: nothing" in texts[0]
    assert len(texts) == 4


def test_pictures_are_sent_once_in_the_trace_and_not_at_all_without_it() -> None:
    with_trace, without = (json.dumps(played(flat(3, max_turns=10, return_trace=wanted))) for wanted in (True, False))

    for png in json.loads(with_trace)["trace"]["frames"].values():
        assert with_trace.count(png) == 1
    assert "iVBORw0KGgo" not in without
    assert json.loads(without)["trace"] is None


def test_a_death_ends_the_episode_and_nothing_is_played_after_it() -> None:
    for on_done in ("reset", "terminate"):
        told = played({**DIES, "on_done": on_done})
        steps = told["trajectory"]["steps"]
        assert told["metrics"]["details"]["ended"] == "died"
        assert [step["done"] for step in steps] == [False] * (len(steps) - 1) + [True]
        assert not steps[-1]["truncated"]
        assert not told["aborted"]
        assert told["ops_executed"] == 2 * len(steps)


def test_the_end_of_the_game_is_a_truncation_and_no_abort() -> None:
    told = played(flat(3, max_turns=100, env_config={"length": 5}))

    assert told["trajectory"]["steps"][-1]["truncated"]
    assert (told["metrics"]["num_steps"], told["aborted"], told["metadata"]["ended"]) == (5, False, "length")


@pytest.mark.parametrize(
    ("more", "steps", "aborted"),
    [
        ({"max_turns": 4}, 4, False),
        ({"max_turns": 4, "ops": ["agent", "env"] * 3}, 3, False),
        ({"max_turns": 4, "safety": {"max_ops": 6}}, 3, True),
        ({"max_turns": 4, "safety": {"max_ops": 7}}, 3, True),
        ({"max_turns": 4, "safety": {"max_ops": 8}}, 4, False),
    ],
)
def test_turns_end_where_the_first_limit_is(more: dict[str, Any], steps: int, aborted: bool) -> None:
    told = played(flat(3, **more))

    assert (told["metrics"]["num_steps"], told["aborted"], told["metadata"]["ended"]) == (steps, aborted, "turns")


def test_time_that_is_up_ends_play_between_two_turns() -> None:
    told = played({"seed": 5, "policy_name": "scripted", "safety": {"max_time_s": 0.05}, **TRACED})

    assert told["aborted"]
    assert told["metadata"]["ended"] == "time"
    assert 0 < told["metrics"]["num_steps"] < 10_000
    assert trace.unpack(told["trace"]).episode["ended"] == "time"


def test_time_that_is_up_cuts_off_a_reply_and_keeps_the_turns_before_it() -> None:
    told = played(flat(3, policy_name="stuck", safety={"max_time_s": 0.5}, **TRACED))

    assert told["aborted"]
    assert (told["metrics"]["num_steps"], told["metadata"]["ended"], told["error"]) == (2, "time", None)
    assert len(trace.unpack(told["trace"]).rows) == 2


def test_what_breaks_ends_play_and_keeps_the_turns_before_it() -> None:
    told = played(flat(3, policy_name="broken", **TRACED))

    assert told["aborted"]
    assert (told["metrics"]["num_steps"], told["metadata"]["ended"]) == (2, "error")
    assert told["error"] == "the endpoint is gone"
    assert len(trace.unpack(told["trace"]).rows) == 2


def test_a_bug_of_a_policy_is_told_and_no_crash() -> None:
    told = played(flat(3, policy_name="bug", **TRACED))

    assert told["aborted"]
    assert told["error"]


def test_a_reply_that_cannot_be_read_is_an_outcome() -> None:
    told = played(flat(3, policy_name="mumbler", max_turns=4))
    steps = told["trajectory"]["steps"]

    assert [step["info"]["meta"]["outcome"] for step in steps] == ["ok", "no_tool_call"] * 2
    assert [len(step["tool_calls"]) for step in steps] == [1, 0, 1, 0]
    assert steps[1]["info"]["meta"]["raw_response"]["text"] == "well..."
    assert steps[1]["info"]["actions"] == ["noop"]
    assert told["metrics"]["details"]["outcomes"] == {"ok": 2, "no_tool_call": 2}


@pytest.mark.parametrize("strategy", ["consistent", "per_achievement"])
def test_stepwise_rewards_are_those_of_the_turns(strategy: str) -> None:
    pay = {"enabled": True, "strategy": strategy, "indicator_lambda": 0.5, "weights": {"collect_sapling": 3.0}, "k_limits": {}}
    body = flat(3, policy_name="scripted", max_turns=60, env_config={"step_rewards": pay})

    told = played(body)
    turns, _, _ = locally(body)
    options = RewardOptions(weight=0.5, weights={"collect_sapling": 3.0})
    wanted = [
        (0.5 if turn.unlocked else 0.0)
        if strategy == "consistent"
        else sum(options.weights.get(name, 1.0) for name in turn.unlocked)
        for turn in turns
    ]
    sums = told["metrics"]["details"]["stepwise"]
    assert sum(wanted) > 0, "something is to be unlocked"
    assert [sample["r_i"] for sample in told["trajectory"]["decision_samples"]] == wanted
    assert [step["reward"] for step in told["trajectory"]["steps"]] == wanted
    assert sums["reward_sum"] == pytest.approx(sum(wanted))
    assert sums["indicator_sum"] == sum(bool(turn.unlocked) for turn in turns)
    assert sums["final_achievements"] == sorted(name for turn in turns for name in turn.unlocked)
    assert told["metrics"]["episode_returns"] == [pytest.approx(sum(wanted))]


def test_an_answer_has_the_keys_of_the_contract() -> None:
    told = played(nested(3, policy="scripted", config={"trace_correlation_id": "trace_x"}, training_session_id="s"))

    assert set(told) >= {"run_id", "aborted", "ops_executed", "branches", "metrics", "trajectories", "trace", "pipeline_metadata"}
    assert set(told) >= {"trajectory", "metadata"}
    assert set(told["metrics"]) >= {
        "episode_returns",
        "mean_return",
        "num_steps",
        "num_episodes",
        "outcome_score",
        "events_score",
    }
    found = [told["trace_correlation_id"], told["pipeline_metadata"]["trace_correlation_id"]]
    assert [*found, told["trajectories"][0]["trace_correlation_id"]] == ["trace_x"] * 3
    assert set(told["trajectories"][0]) >= {
        "env_id",
        "policy_id",
        "length",
        "inference_url",
        "decision_samples",
        "final",
        "steps",
    }
    step = told["trajectories"][0]["steps"][0]
    assert set(step) == {"obs", "tool_calls", "reward", "done", "truncated", "info"}
    assert step["tool_calls"][0]["tool_name"] == "interact_many"
    assert step["tool_calls"][0]["arguments"]["actions"] == step["info"]["actions"]
    assert told["metadata"]["training_session_id"] == "s"


def test_a_worker_of_synthq_is_sent_the_trace_alone() -> None:
    told = played(nested(3, synthq={"eval": {"seeds": 3, "policies": ["random"], "max_turns": 4}, "member": 5}, **TRACED))

    assert told["trajectories"] == []
    sent = trace.unpack(told["trace"])
    assert (sent.episode["member"], sent.episode["turns"], sent.episode["policy"]) == (5, 4, "random")


@pytest.mark.parametrize("record", [{"trajectories": False}, {"trajectories": False, "logprobs": True}])
def test_what_is_not_to_be_recorded_is_left_out(record: dict[str, bool]) -> None:
    told = played(flat(3, record=record))

    assert (told["trajectories"], told["trajectory"]) == ([], None)
    assert told["metrics"]["num_steps"] == 6


def test_logprobs_are_there_when_asked_for_and_null_where_a_policy_gives_none() -> None:
    steps = played(flat(3, record={"logprobs": True}))["trajectory"]["steps"]

    assert steps[0]["info"]["meta"]["logprobs"] is None
    assert "logprobs" not in played(flat(3))["trajectory"]["steps"][0]["info"]["meta"]


def test_the_policy_is_the_workers_own() -> None:
    assert played(flat(3, policy_name="scripted"))["metadata"]["policy_version"] == Scripted().version


# -- with a model ----------------------------------------------------------------------------------------------------------


class Queried(StandIn):
    """A stand-in that keeps the queries of the addresses it was asked at."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.queries: list[str] = []

    def _answer(self, path: str, headers: dict[str, str], raw: bytes) -> Any:
        path, _, query = path.partition("?")
        self.queries.append(query)
        return super()._answer(path, headers, raw)


def config(server: StandIn, **more: Any) -> dict[str, Any]:
    return {"model": "teacher", "inference_url": server.url, **more}


def test_a_model_is_shown_the_picture_and_asked_at_the_address_as_it_was_given() -> None:
    with Queried(key=None) as server:
        server.then(calls("move_left", "do"), text("hello"), calls("noop"))
        url = f"{server.url}/chat/completions?cid=trace_9&v=1"
        told = played(nested(3, policy="crafter-react", turns=3, config={"model": "teacher", "inference_url": url}))

    assert [asked.picture is not None for asked in server.asked] == [True] * 3
    assert server.queries == ["cid=trace_9&v=1"] * 3
    assert told["trace_correlation_id"] == told["trajectory"]["trace_correlation_id"] == "trace_9"
    metas = [step["info"]["meta"] for step in told["trajectory"]["steps"]]
    assert [meta["outcome"] for meta in metas] == ["ok", "no_tool_call", "ok"]
    assert metas[0]["usage"]["input_tokens"] == 800
    assert told["metadata"]["policy_name"] == "openai:teacher"


def test_in_image_only_mode_a_model_is_shown_nothing_else() -> None:
    with StandIn(key=None, image_only=True) as server:
        told = played(flat(3, policy_name="crafter-react", max_turns=2, policy_config=config(server, image_only_mode=True)))

    assert len(server.asked) == told["metrics"]["num_steps"] == 2


def test_a_model_that_refuses_every_request_is_told_and_no_crash() -> None:
    with StandIn(key=None) as server:
        server.then(calls("noop"), status(401, "wrong key"))
        told = played(flat(3, policy_name="crafter-react", policy_config=config(server)))

    assert (told["metrics"]["num_steps"], told["aborted"]) == (1, True)
    assert "401" in told["error"]


def test_a_model_that_is_cut_off_by_the_time_is_not_waited_for() -> None:
    with StandIn(key=None) as server:
        server.then(calls("noop"), calls("noop", after_s=60))
        told = played(flat(3, policy_name="crafter-react", policy_config=config(server), safety={"max_time_s": 2}))

    assert (told["metrics"]["num_steps"], told["aborted"], told["metadata"]["ended"]) == (1, True, "time")
