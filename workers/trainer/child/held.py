"""What a child keeps between calls, and how a call learns that it should stop."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from workers.trainer.child.ranks import Alone

if TYPE_CHECKING:
    from workers.trainer.learner import Learner, Settings

log = logging.getLogger("synthq.trainer")


class Cancelled(Exception):
    """The call should end. Stays inside the child: the worker raises why."""


class Held:
    """The learner of the last call, and where it stands.

    It is given to the next call as it is when that asks for the same, at the place where it was left. A call that trains says
    where it has come to (``keep``); one that does not, or that goes wrong, leaves a learner that nobody may go on with.
    """

    def __init__(self, ranks: Alone, stop: threading.Event) -> None:
        self._ranks, self._stop = ranks, stop
        self._learner: Learner | None = None
        self._made_of: tuple[Any, ...] = ()
        self._at: str | None = None
        """The checkpoint that it stands at; empty for none yet, None where it stands nowhere that has a name."""

    @property
    def rank(self) -> int:
        """Which one of the processes that train together this is; 0 tells and writes files."""
        return self._ranks.rank

    @property
    def size(self) -> int:
        """How many processes train together."""
        return self._ranks.size

    def check(self) -> None:
        """Raise Cancelled when the call should end. Where several train together all must ask, and all get the same answer."""
        if self._ranks.share(self._stop.is_set()):
            raise Cancelled

    def learner(self, settings: Settings, at: Path | str = "") -> Learner:
        """A learner that stands at the checkpoint ``at``, a folder of ``Learner.save``, or at its beginning.

        The one of the last call if it was made with the same settings; the model is loaded anew only if it was not. It stops
        between two passes when the call should end.
        """
        wanted = (settings, _stamps(settings.base), _stamps(settings.adapter))
        place = str(at)
        if wanted != self._made_of or (not place and self._at != place):
            self.drop()
            self._learner, self._at = _make(settings), ""
            self._made_of = wanted
        assert self._learner is not None
        if self._at != place:
            self._at = None  # in case it breaks off half way
            self._learner.restore(Path(place))
        self._at = None
        self._learner.check = self.check
        return self._learner

    def keep(self, at: Path | str = "") -> None:
        """The learner stands at this checkpoint: a call that asks for it may have it as it is. Nothing was done to it since."""
        self._at = str(at)

    def drop(self) -> None:
        """Give back the memory."""
        if self._learner is None:
            return
        self._learner, self._made_of, self._at = None, (), None
        gc.collect()
        import torch  # it is loaded: the learner was made with it

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


Target: TypeAlias = Callable[[dict[str, Any], Callable[[dict[str, Any]], None], Held], dict[str, Any]]
"""``run(args, tell, held)``: what it gives goes to the worker, and so does what it tells meanwhile; both are JSON."""


def _make(settings: Settings) -> Learner:
    from workers.model.threads import settle
    from workers.trainer.learner import Learner

    made = Learner(settings)
    settle(sum(weight.numel() for weight in made.loaded.model.parameters()))
    return made


def _stamps(folder: str) -> tuple[Any, ...]:
    """What changes when the files of a model's folder are written over; nothing for a hub id, which means one thing for ever."""
    if not folder.startswith("/") or not Path(folder).is_dir():
        return ()
    found = sorted(path for path in Path(folder).iterdir() if path.is_file())
    return tuple((path.name, about.st_size, about.st_mtime_ns, about.st_ino) for path in found for about in [path.stat()])
