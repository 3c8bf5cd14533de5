"""What goes wrong, runs short or is given up ends the requests that it concerns, and no others."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from core import kit  # noqa: E402
from core_kit import Answers, apart, engine, picture, prompt, replies  # noqa: E402
from inference.server_kit import write_adapter  # noqa: E402

from app.errors import Conflict, EngineBusy, EngineFault, RequestCancelled, Unavailable  # noqa: E402
from workers.inference.core.request import Generated, Sampling  # noqa: E402

TOLERANCE = 1e-4
LONG = Sampling(max_tokens=120, seed=0, ignore_eos=True)
SHORT = Sampling(max_tokens=5, seed=0, ignore_eos=True)


def some(loaded: Any, count: int, sampling: Sampling = SHORT) -> list[Any]:
    return [(prompt(loaded, 20 + 3 * n, pictures=[picture(loaded, n)] * (n % 2), seed=n), sampling) for n in range(count)]


@pytest.fixture
def wanted(loaded: Any) -> list[Generated]:
    """The replies to ``some(loaded, 12)`` when all goes well."""
    with engine(loaded) as core:
        return replies(core, some(loaded, 12))


def same(told: list[Any], wanted: list[Generated]) -> bool:
    return all(isinstance(one, Generated) and apart(one, other) < TOLERANCE for one, other in zip(told, wanted, strict=True))


# -- given up ----------------------------------------------------------------------------------------------------------------


def test_a_running_request_is_cancelled_and_its_neighbours_go_on(loaded):
    with engine(loaded) as core:
        (alone,) = replies(core, [(prompt(loaded, 40), LONG)])
        answers = Answers(core)
        gone = [answers.ask(prompt(loaded, 30, seed=n), Sampling(max_tokens=4000, ignore_eos=True)) for n in range(3)]
        stays = answers.ask(prompt(loaded, 40), LONG)
        for place in gone:
            core.cancel(answers.tickets[place])
        assert all(isinstance(result, RequestCancelled) for result in answers.wait(*gone))
        assert stays not in answers.results
        assert apart(alone, answers.wait(stays)[0]) < TOLERANCE
        figures = core.figures()
        assert (figures["cancelled"], figures["running"], figures["finished"]) == (3, 0, 2)


def test_a_waiting_request_is_cancelled_before_it_begins(loaded):
    with engine(loaded, max_num_seqs=1) as core:
        answers = Answers(core)
        first, second, third = (answers.ask(prompt(loaded, 20, seed=n), LONG) for n in range(3))
        core.cancel(answers.tickets[second])
        core.cancel(answers.tickets[second])
        assert isinstance(answers.wait(second)[0], RequestCancelled)
        assert all(isinstance(result, Generated) for result in answers.wait(first, third))
        core.cancel(answers.tickets[first])  # it has ended: nothing happens
        assert same(replies(core, some(loaded, 2)), replies(core, some(loaded, 2)))


def test_a_full_queue_refuses_more_and_takes_them_later(loaded):
    with engine(loaded, start=False, max_num_seqs=1, max_waiting=4) as core:
        answers = Answers(core)
        for ask in some(loaded, 5):
            answers.ask(*ask)
        with pytest.raises(EngineBusy, match="4 requests wait already") as caught:
            answers.ask(*some(loaded, 1)[0])
        assert caught.value.retryable
        assert (caught.value.status, core.figures()["waiting"]) == (503, 5), "one of them is to run"
        core.start()
        assert all(isinstance(result, Generated) for result in answers.wait())
        replies(core, some(loaded, 1))


def test_a_stopped_engine_leaves_nobody_waiting(loaded):
    with engine(loaded, max_num_seqs=2) as core:
        answers = Answers(core)
        for n in range(5):
            answers.ask(prompt(loaded, 20, seed=n), Sampling(max_tokens=4000, ignore_eos=True))
        core.stop()
        assert all(isinstance(result, Unavailable) for result in answers.wait())
        with pytest.raises(Unavailable, match="the engine has stopped"):
            answers.ask(prompt(loaded, 20), SHORT)
        with pytest.raises(Conflict, match="make another"):
            core.start()


# -- goes wrong --------------------------------------------------------------------------------------------------------------


def test_a_prompt_that_fails_ends_alone(loaded, monkeypatch, wanted):
    asks = some(loaded, 12)
    with engine(loaded) as core:
        prefill = core._forward.prefill

        def fails(tickets: Any, first: int) -> Any:
            if any(len(ticket.tokens) == 100 for ticket in tickets):
                raise ValueError("no such kernel")
            return prefill(tickets, first)

        monkeypatch.setattr(core._forward, "prefill", fails)
        monkeypatch.setattr("workers.inference.core.schedule.WASTE", 0)  # every length a group of its own
        answers = Answers(core)
        bad = answers.ask(prompt(loaded, 100), SHORT)
        for ask in asks:
            answers.ask(*ask)
        told = answers.wait()
        assert isinstance(told[bad], EngineFault)
        assert str(told[bad]) == "the reply could not be computed (ValueError: no such kernel)"
        assert same(told[1:], wanted)
        assert core.figures()["failed"] == 1


def test_a_step_that_fails_ends_those_that_were_part_of_it(loaded, monkeypatch, wanted):
    with engine(loaded) as core:
        decode, left = core._forward.decode, [3]

        def fails(tickets: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise RuntimeError("no such shape")
            return decode(tickets)

        monkeypatch.setattr(core._forward, "decode", fails)
        answers = Answers(core)
        for ask in some(loaded, 4):
            answers.ask(*ask)
        assert all(isinstance(result, EngineFault) for result in answers.wait())
        assert same(replies(core, some(loaded, 12)), wanted)


def test_a_device_that_is_lost_ends_the_engine(loaded, monkeypatch):
    with engine(loaded, start=False) as core:

        def lost(tickets: Any) -> Any:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

        monkeypatch.setattr(core._forward, "decode", lost)
        answers = Answers(core)
        for ask in some(loaded, 3):
            answers.ask(*ask)
        core.start()
        assert all(isinstance(result, Unavailable) for result in answers.wait())
        assert "an illegal memory access" in (core.fault or "")


def test_a_text_that_cannot_be_made_ends_its_own_request(loaded, monkeypatch):
    with engine(loaded) as core:
        answers = Answers(core)
        sampling = Sampling(max_tokens=3, seed=0, ignore_eos=True, stop=("never",))

        def fails(self: Any, token: int) -> bool:
            raise ValueError("no text")

        monkeypatch.setattr("workers.inference.core.text.StopTexts.take", fails)
        bad, good = answers.ask(prompt(loaded, 20), sampling), answers.ask(prompt(loaded, 20), SHORT)
        answers.wait()
        assert str(answers.results[bad]) == "the reply could not be computed (ValueError: no text)"
        assert isinstance(answers.results[good], Generated)


def test_scores_that_are_no_numbers_end_the_requests_that_have_them(loaded, monkeypatch):
    with engine(loaded) as core:
        scores = core._forward.scores

        def spoilt(states: Any) -> Any:
            told = scores(states)
            told[0] = float("nan")
            return told

        monkeypatch.setattr(core._forward, "scores", spoilt)
        answers = Answers(core)
        for _ in range(2):
            answers.ask(prompt(loaded, 20), SHORT)
        assert all(isinstance(result, EngineFault) for result in answers.wait())
        assert "no numbers" in str(answers.results[0])
        monkeypatch.undo()
        assert len(replies(core, some(loaded, 2))) == 2


def test_who_asked_may_fail_to_listen(loaded, caplog):
    with engine(loaded) as core:
        base = core.models()[0]["id"]
        core.submit(prompt(loaded, 20), SHORT, base, lambda result: 1 / 0)  # type: ignore[arg-type,return-value]
        assert len(replies(core, some(loaded, 2))) == 2
    assert "division by zero" in caplog.text


def test_an_engine_that_ends_by_itself_says_why(loaded, monkeypatch):
    with engine(loaded, start=False) as core:
        monkeypatch.setattr(core._steps, "step", lambda: [][0])
        answers = Answers(core)
        answers.ask(prompt(loaded, 20), SHORT)
        core.start()
        (told,) = answers.wait()
        assert isinstance(told, Unavailable)
        assert str(told) == "the engine has stopped: IndexError: list index out of range"
        assert core.fault == "IndexError: list index out of range"
        with pytest.raises(Unavailable, match="IndexError"):
            answers.ask(prompt(loaded, 20), SHORT)


# -- runs short --------------------------------------------------------------------------------------------------------------


class Scarce:
    """A language model for which there is memory for so many tokens of cache, and so many at once."""

    def __init__(self, text: Any, *, rows: int, tokens: int) -> None:
        self._text, self.rows, self.tokens = text, rows, tokens
        self.refused = 0

    def __call__(self, *, inputs_embeds: Any, **more: Any) -> Any:
        rows, tokens, _ = inputs_embeds.shape
        if (tokens == 1 and rows > self.rows) or rows * tokens > self.tokens:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self._text(inputs_embeds=inputs_embeds, **more)


@pytest.mark.parametrize(("rows", "tokens"), [(3, 10_000), (100, 90), (2, 70)])
def test_short_of_memory_it_does_less_at_a_time(loaded, monkeypatch, wanted, rows, tokens):
    with engine(loaded, prefix_bytes=1 << 20) as core:
        scarce = Scarce(core._forward._text, rows=rows, tokens=tokens)
        monkeypatch.setattr(core._forward, "_text", scarce)
        for _ in range(3):
            assert same(replies(core, some(loaded, 12)), wanted)
        assert scarce.refused
        scarce.rows = scarce.tokens = 10**9
        assert same(replies(core, some(loaded, 12)), wanted)
        assert core.figures()["failed"] == 0


def test_a_request_that_memory_cannot_hold_even_alone_is_told_so(loaded, monkeypatch, wanted):
    with engine(loaded) as core:
        monkeypatch.setattr(core._forward, "_text", Scarce(core._forward._text, rows=100, tokens=90))
        answers = Answers(core)
        large = answers.ask(prompt(loaded, 200), SHORT)
        for ask in some(loaded, 12):
            answers.ask(*ask)
        told = answers.wait()
        assert isinstance(told[large], EngineFault)
        assert str(told[large]).startswith("there is not enough memory for this request, even alone (OutOfMemoryError: CUDA out")
        assert same(told[1:], wanted)


def test_rows_that_cannot_grow_are_short_of_memory_too(loaded, monkeypatch, wanted):
    with engine(loaded) as core:
        rows = core._forward.rows
        new = rows._new

        def tight(count: int, places: int) -> Any:
            if count > 4:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory")
            return new(count, places)

        monkeypatch.setattr(rows, "_new", tight)
        assert same(replies(core, some(loaded, 12)), wanted)


def once(act: Any, error: Exception, at: int = 1) -> Any:
    """An act that fails one time."""
    left = [at]

    def acts(*given: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise error
        return act(*given, **more)

    return acts


OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def unlike(loaded: Any) -> list[Any]:
    """Replies of several lengths: some end before others, whose rows they leave between them."""
    samplings = [Sampling(max_tokens=3 + n % 4 * 3, seed=0, ignore_eos=True) for n in range(8)]
    return [(prompt(loaded, 20 + n, seed=n), sampling) for n, sampling in enumerate(samplings)]


@pytest.mark.parametrize("at", [1, 3])
def test_rows_that_cannot_be_moved_are_computed_again(loaded, monkeypatch, at):
    with engine(loaded) as core:
        right = replies(core, unlike(loaded))
        monkeypatch.setattr(core._forward.rows, "move", once(core._forward.rows.move, OUT, at))
        assert same(replies(core, unlike(loaded)), right)
        assert core.figures()["put_back"] > 0
        monkeypatch.undo()
        assert same(replies(core, unlike(loaded)), right)


def test_rows_that_cannot_be_moved_for_another_reason_end_those_that_had_to(loaded, monkeypatch):
    with engine(loaded) as core:
        right = replies(core, unlike(loaded))
        monkeypatch.setattr(core._forward.rows, "move", once(core._forward.rows.move, RuntimeError("no such kernel")))
        answers = Answers(core)
        for ask in unlike(loaded):
            answers.ask(*ask)
        told = answers.wait()
        ended = [result for result in told if isinstance(result, EngineFault)]
        assert 0 < len(ended) < len(told)
        assert same(replies(core, unlike(loaded)), right)


def test_rows_that_cannot_shrink_do_not_end_the_engine(loaded, monkeypatch, wanted):
    with engine(loaded) as core:
        monkeypatch.setattr(core._forward, "_text", Scarce(core._forward._text, rows=3, tokens=10_000))
        monkeypatch.setattr(core._forward.rows, "shrink", once(core._forward.rows.shrink, OUT))
        assert same(replies(core, some(loaded, 12)), wanted)


def test_prefixes_that_cannot_be_kept_are_forgotten(loaded, monkeypatch, wanted):
    with engine(loaded, prefix_bytes=1 << 24) as core:
        for _ in range(2):
            replies(core, some(loaded, 12))
        assert core.figures()["prefix_blocks"] > 0
        monkeypatch.setattr(torch.Tensor, "unflatten", once(torch.Tensor.unflatten, OUT))
        for _ in range(3):
            assert same(replies(core, [(prompt(loaded, 60, seed=99), SHORT), *some(loaded, 12)])[1:], wanted)
        monkeypatch.undo()
        assert core.fault is None


def test_an_adapter_that_memory_cannot_hold_is_refused_for_now(loaded, monkeypatch, tiny_model, tmp_path):
    folder = str(write_adapter(tiny_model, tmp_path / "one", seed=1))
    with engine(loaded) as core:
        monkeypatch.setattr(core._forward.adapters, "put", once(core._forward.adapters.put, OUT))
        with pytest.raises(Unavailable, match="not enough memory for 'one' now"):
            core.load_adapter("one", folder)
        assert core.load_adapter("one", folder)
        core.unload_adapter("one")  # other tests have the model too


def test_states_that_cannot_be_joined_are_drawn_from_apart(loaded, monkeypatch, wanted):
    with engine(loaded) as core:
        running = Answers(core)
        running.ask(prompt(loaded, 30, seed=99), Sampling(max_tokens=2000, seed=0, ignore_eos=True))  # others join it
        cat, left = torch.cat, [1]

        def tight(tensors: Any, *more: Any, **named: Any) -> Any:
            if isinstance(tensors, list) and tensors[0].ndim == 2 and left[0] and not more and not named:
                left[0] = 0
                raise OUT
            return cat(tensors, *more, **named)

        kit.until(lambda: core.figures()["running"], 10, "the first runs")
        monkeypatch.setattr("workers.inference.core.steps.torch.cat", tight)
        assert same(replies(core, some(loaded, 12)), wanted)
        assert left == [0]
        core.cancel(running.tickets[0])
