"""Episodes that a task app plays somewhere else: asked for over HTTP, checked, and stored like those that are played here."""

from workers.rollout.remote.client import TaskApp
from workers.rollout.remote.request import rollout_body
from workers.rollout.remote.response import trace_of

__all__ = ["TaskApp", "rollout_body", "trace_of"]
