"""Every Celery task. One for each queue that has steps: a message says that work waits there, not which.

The queue ``inference`` has none: what an endpoint serves is a desired state, which its worker brings about by itself.
"""

from __future__ import annotations

from typing import Any

from app.broker import celery, task_name
from app.models import Queue
from workers.runner import kill_this_process, run_hint

STEPS = {
    "play": "workers.rollout.play_step:run",
    "report": "workers.rollout.report:run",
    "filter": "workers.rollout.export:run",
    "label": "workers.rollout.labels:run",
    "rl_score": "workers.rollout.report_rl:score_one",
    "rl_report": "workers.rollout.report_rl:run",
    "keep": "workers.trainer.rl.step:keep",
    "noop": "workers.noop:run",
    "sft": "workers.trainer.sft.step:run",
    "begin": "workers.trainer.rl.step:begin",
    "starts": "workers.rollout.curriculum:run",
    "update": "workers.trainer.rl.step:update",
}
"""The step kinds that workers of this version know, and where each is done."""


@celery.task(bind=True, name=task_name(Queue.ROLLOUT))
def run_rollout(self: Any, step_id: str) -> None:
    """Run the best step that waits in the rollout queue."""
    run_hint(Queue.ROLLOUT, STEPS, hint=self.request.id, on_stuck=kill_this_process)


@celery.task(bind=True, name=task_name(Queue.DATA))
def run_data(self: Any, step_id: str) -> None:
    """Run the best step that waits in the data queue."""
    run_hint(Queue.DATA, STEPS, hint=self.request.id, on_stuck=kill_this_process)


@celery.task(bind=True, name=task_name(Queue.TRAINER))
def run_trainer(self: Any, step_id: str) -> None:
    """Run the best step that waits in the trainer queue."""
    from workers.trainer import resident  # workers of other roles need nothing of it

    run_hint(Queue.TRAINER, STEPS, hint=self.request.id, on_stuck=resident.give_up)
