"""The weights of a base while they are served: what is behind its name, and whether its folder holds others by now."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from app import model_folder, weights
from app.errors import BadModel
from workers.inference import files
from workers.inference.engines.admin import ServedModel

log = logging.getLogger("synthq.inference")


class Base:
    """A folder, or a model on the hub, whose weights nobody can change here."""

    def __init__(self, name: str) -> None:
        """``name``: a whole path, or a hub id."""
        self.name = name
        self.sha256 = ""
        """Of the weights that are served; empty before, and where nobody knows."""
        self.outdated = False
        """Whether the folder holds other weights than those that are served."""
        self._seen: files.Look = ()

    def note(self) -> None:
        """Note how the files of a folder stand, before an engine reads them. Raises BadModel, and OSError."""
        self._seen = files.look(weights.files(Path(self.name)))

    def begin(self, served: Sequence[ServedModel]) -> None:
        """Find out what an engine serves that has just come up: it tells, or the folder does, if nobody wrote to that since."""
        self.sha256 = next((each.sha256 for each in served if each.name == self.name and not each.adapter), "")
        if self.sha256 or not self._seen:
            return
        folder = Path(self.name)
        try:
            found = weights.sha256(folder)
            self.sha256 = found if files.look(weights.files(folder)) == self._seen else ""
        except (BadModel, OSError) as error:
            log.warning("the sha256 of %s is not known: %s", folder, error)

    def look(self) -> bool:
        """See whether the folder holds other weights by now, and all of them; True when that is news.

        Looks at sizes and times, and reads weights only when those have changed and nobody writes to them any more. Weights of
        which ``app.weights.sha256`` reads the headers alone count as others then.
        """
        if not self._seen or self.outdated:
            return False
        folder = Path(self.name)
        try:
            seen = files.look(weights.files(folder))
            if seen == self._seen or not files.settled(seen):
                return False
            model_folder.read(folder)
            found = weights.sha256(folder)
            same = found == self.sha256 and weights.is_hashed_whole(folder)
            if files.look(weights.files(folder)) != seen:
                return False
        except (BadModel, OSError) as error:
            log.debug("%s holds no model at present, and what is served stays: %s", folder, error)
            return False
        self._seen, self.outdated = seen, not same
        if self.outdated:
            log.warning("the weights in %s are others now: sha256 %s, and %s is served", folder, found, self.sha256 or "another")
        return self.outdated
