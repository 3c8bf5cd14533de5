"""Standing still, going round, and seeing little: told from pictures and actions, with daylight left out of account."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from flow import eval_tables, run_spec
from sqlmodel import col, select

from app import db
from app.models import Episode, FrameRow, Job, TurnRow
from workers.rollout import envs
from workers.rollout.selection.looks import HISTORY, SLOW_LIGHT, Course, Look, course, looks, same_state


def picture(level: int, spot: int = 0) -> np.ndarray:
    """A picture of one colour, with a spot of another size for each scene."""
    made = np.full((8, 8, 3), level, np.uint8)
    made[:spot] = 200
    return made


def look(scene: int, action: str = "do", *, light: int = 50, unlocked: bool = False) -> Look:
    return Look(state=f"{scene}/{light}", picture=picture(light, scene), actions=(action,), unlocked=unlocked)


def seen(turns: Iterable[Look], most_states: int = 100) -> Course:
    return course(turns, most_states=most_states, repeats=True, loops=True)


def row(*turns: tuple[int, str]) -> list[Look]:
    return [look(scene, action) for scene, action in turns]


def test_slow_light_is_no_change_and_anything_else_is() -> None:
    assert same_state(look(1), look(1, light=50 + SLOW_LIGHT))
    assert not same_state(look(1), look(1, light=51 + SLOW_LIGHT))
    assert not same_state(look(1), look(2))


def test_without_pictures_equal_names_are_equal_states_and_nothing_is_equal_to_nothing() -> None:
    one, other = (Look(state=name, picture=None, actions=("do",), unlocked=False) for name in ("a", "b"))
    unknown = Look(state=None, picture=None, actions=("do",), unlocked=False)
    assert same_state(one, one)
    assert not same_state(one, other)
    assert not same_state(unknown, unknown)
    assert seen([unknown] * 9) == Course(repeated=1, looped=False, states=0)
    larger = Look(state="c", picture=np.full((16, 16, 3), 50, np.uint8), actions=("do",), unlocked=False)
    assert not same_state(look(0), larger)


def test_the_same_actions_at_the_same_picture_are_repetition() -> None:
    assert seen(row(*[(1, "do")] * 7)).repeated == 7
    assert seen([look(1, light=50 + turn) for turn in range(30)]).repeated == 30, "while it dawns"
    assert seen(row(*[(1, "do"), (1, "noop")] * 5)).repeated == 1
    assert seen(row(*[(scene, "move_left") for scene in range(8)])).repeated == 1, "walking"
    assert seen([]).repeated == 0


def test_what_passes_by_does_not_hide_a_repetition() -> None:
    passing = [look(2 if turn % 4 == 3 else 1, "move_left") for turn in range(20)]
    assert seen(passing).repeated == 1 + 2 * 5


def test_an_unlock_makes_patience_of_the_repetition_before_it() -> None:
    trying = row(*[(1, "do")] * 9)
    assert seen([*trying, look(1, unlocked=True), look(2, "noop")]).repeated == 1
    assert seen([*trying, look(2, "noop", unlocked=True)]).repeated == 1, "in the turn after it"
    assert seen([*trying, look(2, "noop"), look(2, "left", unlocked=True)]).repeated == 9, "two turns after it is too late"
    assert seen([look(1, unlocked=True), *trying]).repeated == 10, "what follows the unlock counts again"


@pytest.mark.parametrize("period", range(2, 9))
def test_turns_that_come_three_times_are_a_loop(period: int) -> None:
    around = row(*[(scene, f"a{scene}") for scene in range(period)])
    assert seen([look(8, "other"), *around, *around, *around]).looped
    assert not seen([*around, *around, *around[:-1], look(8, "other")]).looped
    assert not seen([*around, *around, *[look(scene + 1, f"a{scene}") for scene in range(period)]]).looped


def test_more_than_eight_turns_are_no_loop_and_neither_is_standing_still() -> None:
    nine = row(*[(scene % 8, f"a{scene}") for scene in range(9)])
    assert not seen(nine * 4).looped
    assert not seen(row(*[(1, "do")] * 40)).looped
    assert seen(row(*[(1, "do"), (1, "do"), (1, "noop")] * 3)).looped


def test_states_are_counted_up_to_what_was_asked() -> None:
    turns = row(*[(scene, "do") for scene in (0, 1, 0, 2, 1, 3, 3, 4)])
    assert seen(turns).states == 5
    assert seen(turns, most_states=3).states == 3


def test_only_as_many_turns_are_read_as_the_answer_needs() -> None:
    read = []

    def turns() -> Iterator[Look]:
        for scene in range(8):
            read.append(scene)
            yield look(scene)

    assert course(turns(), most_states=3, repeats=False, loops=False).states == 3
    assert read == [0, 1, 2, 3]


def test_memory_does_not_grow_with_the_turns() -> None:
    def peak(count: int) -> int:
        def turns() -> Iterator[Look]:
            for turn in range(count):
                shade = np.random.default_rng(turn).integers(0, 256, (64, 64, 3), np.uint8)
                yield Look(state=str(turn), picture=shade, actions=("do",), unlocked=False)

        tracemalloc.start()
        course(turns(), most_states=20, repeats=True, loops=True)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    few, many = peak(100), peak(2000)
    assert many < few * 1.2


def bumping(seed: int, turns: int) -> Iterator[Look]:
    """Walking to the left for ever, in the real Crafter."""
    world = envs.make("crafter")
    world.reset(seed)
    for turn in range(turns):
        yield Look(state=f"{turn}", picture=np.array(world.frame()), actions=("move_left",), unlocked=False)
        world.step("move_left")


@pytest.mark.parametrize("seed", range(4))
def test_who_walks_against_a_tree_is_noticed_though_every_frame_has_another_light(seed: int) -> None:
    turns = list(bumping(seed, 50))
    assert course(turns, most_states=3, repeats=True, loops=False).repeated > 5
    changes = [np.array_equal(a.picture, b.picture) for a, b in pairwise(turns)]
    assert sum(changes) < 10, "equal bytes alone would not have told it"


def test_the_followed_projects_numbers_keep_good_play(store: Path) -> None:
    run_spec(eval_tables(policies="scripted", seeds="0-9", max_turns=50, env_config={"length": 10_000}))
    with db.reading() as session:
        ids = session.exec(select(Episode.id).order_by(col(Episode.seed))).all()
        found = [course(looks(session, id), most_states=3, repeats=True, loops=True) for id in ids]
    kept = [one for one in found if one.repeated <= 5 and one.states >= 3 and not one.looped]
    assert len(kept) >= 9, found


def test_turns_come_out_of_the_store_with_their_pictures_in_order(played: Job) -> None:
    with db.reading() as session:
        id = session.exec(select(Episode.id).where(Episode.policy == "random", Episode.seed == 0)).one()
        rows = session.exec(select(TurnRow).where(TurnRow.episode_id == id).order_by(col(TurnRow.index))).all()
        found = list(looks(session, id))
    assert [one.state for one in found] == [turn.frame for turn in rows]
    assert [one.actions for one in found] == [tuple(turn.actions) for turn in rows]
    assert [one.unlocked for one in found] == [bool(turn.unlocked) for turn in rows]
    assert {one.picture.shape for one in found if one.picture is not None} == {(64, 64, 3)}


def test_a_turn_without_a_picture_goes_by_what_its_prompt_tells_of_the_present(store: Path) -> None:
    policy = {"use_vision": False, "history": 3}
    run_spec(eval_tables(policies="random", seeds="0", max_turns=12, save_frames="none", policy_config=policy))
    with db.reading() as session:
        id = session.exec(select(Episode.id)).one()
        rows = session.exec(select(TurnRow).where(TurnRow.episode_id == id).order_by(col(TurnRow.index))).all()
        found = list(looks(session, id))
    texts = [turn.messages[0]["parts"][0]["text"] for turn in rows]
    assert all(text.startswith(HISTORY) for text in texts[1:]), "the prompt tells the turns before"
    present = [text.partition("\n\n")[2] if text.startswith(HISTORY) else text for text in texts]
    assert [one.picture for one in found] == [None] * 12
    assert [found[0].state == one.state for one in found] == [present[0] == text for text in present]
    assert len({one.state for one in found}) == len(set(present)) < len(set(texts)) == 12


def test_a_damaged_picture_is_left_to_the_writer(played: Job) -> None:
    with db.writing() as session:
        id = session.exec(select(Episode.id).where(Episode.policy == "random", Episode.seed == 0)).one()
        turn = session.get(TurnRow, (id, 3))
        assert turn is not None
        frame = session.get(FrameRow, turn.frame)
        assert frame is not None
        frame.png = b"no picture"
    with db.reading() as session:
        found = list(looks(session, id))
    assert (found[3].state, found[3].picture) == (turn.frame, None)
