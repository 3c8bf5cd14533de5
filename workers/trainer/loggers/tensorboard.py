"""Figures as files of TensorBoard: a folder for each project, in which each job is a run."""

from __future__ import annotations

import time

from app.file_names import clean_name
from workers.trainer.loggers.base import Run, Values, named


class TensorBoard:
    """Writes event files. A step that goes on with the job adds a file; TensorBoard reads all of a folder as one run."""

    def __init__(self, run: Run) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        folder = run.folder / "tensorboard" / run.project / clean_name(run.title)
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))

    def log(self, scope: str, index: int, values: Values) -> None:
        """One event for the point, a scalar for each figure."""
        scalars = [self._summary.Value(tag=tag, simple_value=value) for tag, value in named(scope, values).items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=index, summary=self._summary(value=scalars)))

    def close(self) -> None:
        """Write what is held."""
        self._writer.close()
