"""The engine: requests in, replies out, many at once. One thread owns the model; every other speaks to it through here."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from app.errors import Conflict, EngineBusy, InvalidInput, RequestCancelled, Unavailable
from workers.inference.core.forward import Forward
from workers.inference.core.prefix import chain_of
from workers.inference.core.request import Sampling
from workers.inference.core.served import Catalog, Served
from workers.inference.core.steps import Steps, is_short
from workers.inference.core.text import StopTexts
from workers.inference.core.ticket import Result, State, Ticket, check
from workers.model.adapters import read_adapter
from workers.model.types import Prompt

if TYPE_CHECKING:
    from workers.model.loading import Loaded

T = TypeVar("T")

log = logging.getLogger("synthq.engine")


class Core:
    """Serves one model and the adapters on it."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        name: str | None = None,
        max_num_seqs: int = 32,
        max_model_len: int = 4096,
        max_waiting: int = 256,
        prefix_bytes: int = 0,
        image_cache_bytes: int = 0,
        max_loras: int = 2,
        max_lora_rank: int = 16,
    ) -> None:
        """``name``: under which the base is served; the ref that it was loaded by unless told.

        ``max_num_seqs``: sequences that are computed at once; ``max_model_len``: most tokens of a prompt and its reply together;
        ``max_waiting``: requests that may wait for those to end; ``prefix_bytes``, ``image_cache_bytes``: memory for what may
        come again, 0: nothing is kept; ``max_loras``, ``max_lora_rank``: adapters that are held at once, and their highest rank.
        """
        for option, value in (("max_num_seqs", max_num_seqs), ("max_model_len", max_model_len)):
            if value < (least := 1 if option == "max_num_seqs" else 2):
                raise InvalidInput(f"{option} is {value}; it must be {least} or more")
        self._loaded, self._tokenizer = loaded, loaded.tokenizer.backend_tokenizer
        self._stops = frozenset(loaded.eos_ids)
        max_model_len = min(max_model_len, loaded.max_length)
        self.max_model_len, self.max_waiting = max_model_len, max_waiting
        self._max_lora_rank = max_lora_rank
        self._open, self._most_open = 0, max_num_seqs + max_waiting
        self._forward = Forward(
            loaded.model,
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
            prefix_bytes=prefix_bytes,
            image_cache_bytes=image_cache_bytes,
            max_loras=max_loras,
            max_lora_rank=max_lora_rank,
        )
        self._waiting: deque[Ticket] = deque()
        self._commands: deque[Callable[[], None]] = deque()
        self._cancelled: list[Ticket] = []
        self._changed = threading.Condition()
        base = Served(name=name or loaded.ref, path=str(loaded.path), sha256=loaded.sha256, slot=None, parent=None)
        self._catalog = Catalog(base, max_loras=max_loras, lock=self._changed)
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._counts: Counter[str] = Counter()
        self._steps = Steps(self._forward, self._waiting, self._end, self._tokenizer, most=max_num_seqs, lock=self._changed)
        self.fault: str | None = None
        """Why the engine ended by itself, if it did."""

    # -- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to compute. What was submitted before is not lost."""
        with self._changed:
            if self._thread is not None or self._stopped:
                raise Conflict("the engine was started before; make another")
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End after the step that is being computed; requests that are not done get Unavailable."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            self._give_up()
        elif thread is not threading.current_thread():
            thread.join()

    # -- requests -------------------------------------------------------------------------------------------------------

    def submit(self, prompt: Prompt, sampling: Sampling, model: str, done: Callable[[Result], None]) -> Ticket:
        """Have a reply made by what is served as ``model``. ``done`` is called once, in the engine's thread, and must be quick.

        It gets a Generated, or why there is none: EngineFault, RequestCancelled, Unavailable when the engine stops. A reply that
        would pass ``max_model_len`` ends there. Raises EngineBusy, UnknownName, InvalidInput, Unavailable.
        """
        check(prompt, sampling, vocabulary=self._forward.vocabulary, max_model_len=self.max_model_len)
        with self._changed:
            self._check_stopped()
            if self._open >= self._most_open:
                raise EngineBusy(self.max_waiting)
            served = self._catalog.use(model)
            self._open += 1
        try:
            ticket = self._ticket(prompt, sampling, served, done)
            with self._changed:
                self._check_stopped()
                self._waiting.append(ticket)
                self._counts["submitted"] += 1
                self._changed.notify()
        except BaseException:
            self._close(served)
            raise
        return ticket

    def _check_stopped(self) -> None:
        if self._stopped:
            raise Unavailable(f"the engine has stopped: {self.fault}" if self.fault else "the engine has stopped")

    def _close(self, served: Served) -> None:
        with self._changed:
            self._open -= 1
            self._catalog.unuse(served)

    def _ticket(self, prompt: Prompt, sampling: Sampling, served: Served, done: Callable[[Result], None]) -> Ticket:
        ticket = Ticket(prompt, sampling, served, done, image_token=self._loaded.image_id, merge=self._loaded.merge)
        ticket.limit = min(sampling.max_tokens, self.max_model_len - len(prompt.ids))
        ticket.stops = frozenset(sampling.stop_ids) | (frozenset() if sampling.ignore_eos else self._stops)
        if sampling.stop:
            skip = sampling.skip_special_tokens
            ticket.stop_texts = StopTexts(self._tokenizer, sampling.stop, skip_special_tokens=skip)
        if self._forward.prefixes.most:
            ticket.chain = chain_of(ticket.tokens, ticket.pictures, served.sha256)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give up on a request: after the step that is being computed its ``done`` gets RequestCancelled, unless it has ended."""
        with self._changed:
            self._cancelled.append(ticket)
            self._changed.notify()

    # -- adapters -------------------------------------------------------------------------------------------------------

    def load_adapter(self, name: str, path: str) -> str:
        """Serve the adapter in a folder under a new name; its sha256. What has the same sha256 may be loaded again.

        Raises BadModel when it does not fit the base, Conflict when the name is another's or there is no room, Unavailable when
        memory is short.
        """
        adapter = read_adapter(path, self._loaded.model, max_rank=self._max_lora_rank)

        def put() -> None:
            try:
                slot = self._forward.adapters.put(adapter.weights, rank=adapter.rank, scale=adapter.scale)
                self._catalog.add(name, str(path), adapter.sha256, slot)
            except Exception as error:
                if not is_short(error):
                    raise
                raise Unavailable(f"there is not enough memory for {name!r} now ({type(error).__name__}: {error})") from None
            finally:
                self._catalog.drop(name)

        with self._changed:
            if not self._catalog.expect(name, adapter.sha256):
                return adapter.sha256
            loading = self._between_steps(put)
        loading.result()
        return adapter.sha256

    def unload_adapter(self, name: str) -> None:
        """Serve an adapter no more. Raises UnknownName, and Conflict while requests use it."""
        with self._changed:  # a load that finds room after this is done after it too
            slot = self._catalog.remove(name)
            dropping = self._between_steps(lambda: self._forward.adapters.drop(slot))
        dropping.result()

    def _between_steps(self, act: Callable[[], T]) -> Future[T]:
        """Have something done while no step runs, in the order in which it is asked for."""
        future: Future[T] = Future()

        def do() -> None:
            try:
                future.set_result(act())
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
                future.set_exception(error)

        with self._changed:
            self._commands.append(do)
            self._changed.notify()
            if self._thread is None or self._stopped:  # nothing runs yet, or any more
                self._do_commands()
        return future

    def _do_commands(self) -> None:
        with torch.inference_mode():
            while self._commands:
                self._commands.popleft()()

    # -- how it is ------------------------------------------------------------------------------------------------------

    def models(self) -> list[dict[str, Any]]:
        """What is served: ``id``, ``parent``, ``path``, ``sha256``."""
        return self._catalog.told()

    def figures(self) -> dict[str, Any]:
        """Counts since the start, and how it is now. ``seconds`` tells what the engine's thread did with its time."""
        steps, forward = self._steps, self._forward
        pictures = forward.sights.cache
        return {
            "running": len(steps.running),
            "waiting": len(self._waiting),
            **{name: self._counts[name] for name in ("submitted", "finished", "cancelled", "failed")},
            **steps.figures(),
            "image_hits": pictures.hits,
            "image_misses": pictures.misses,
            "image_cache_bytes": pictures.used,
            "prefix_blocks": len(forward.prefixes),
            "adapters": len(self._catalog) - 1,
            "seconds": {phase: forward.seconds[phase] for phase in ("vision", "prefill", "decode", "sample", "idle")},
        }

    # -- the engine's thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._wait():
                    self._do_commands()
                    self._drop_cancelled()
                    self._steps.step()
        except BaseException as error:  # whatever it is, nobody may wait for ever
            log.exception("the engine ended")
            self.fault = f"{type(error).__name__}: {error}"
        finally:
            with self._changed:
                self._stopped = True
            self._give_up()

    def _wait(self) -> bool:
        """Wait until there is something to do; False when the engine is to stop."""
        with self._changed:
            if not (self._stopped or self._waiting or self._steps.running or self._commands or self._cancelled):
                began = perf_counter()
                self._changed.wait_for(lambda: self._stopped or self._waiting or self._commands or self._cancelled)
                self._forward.seconds["idle"] += perf_counter() - began
            return not self._stopped

    def _drop_cancelled(self) -> None:
        if not self._cancelled:
            return
        with self._changed:
            dropped, self._cancelled = dict.fromkeys(self._cancelled), []  # some may have been given up more than once
            for ticket in dropped:
                if ticket.state is State.WAITING:
                    self._waiting.remove(ticket)
        for ticket in dropped:
            if ticket.state is not State.OVER:
                self._end(ticket, RequestCancelled("the request was cancelled"))
        self._steps.close_ranks()

    def _give_up(self) -> None:
        with self._changed:
            left = [*self._waiting, *self._steps.running]
            self._waiting.clear()
            self._steps.running.clear()
            commands = list(self._commands)
            self._commands.clear()
        for command in commands:
            command()
        why = f"the engine has stopped: {self.fault}" if self.fault else "the engine has stopped"
        for ticket in left:
            if ticket.state is not State.OVER:
                self._end(ticket, Unavailable(why))

    def _end(self, ticket: Ticket, result: Result) -> None:
        """Tell a request's end, once."""
        ticket.state = State.OVER
        cancelled = isinstance(result, RequestCancelled)
        name = "cancelled" if cancelled else "failed" if isinstance(result, Exception) else "finished"
        with self._changed:
            self._close(ticket.served)
            self._counts[name] += 1
        try:
            ticket.done(result)
        except Exception:
            log.exception("what was to be told of a reply's end failed")
