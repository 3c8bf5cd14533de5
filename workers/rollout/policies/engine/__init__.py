"""A model that synthq serves itself plays: what it is asked, who is asked, over which line, what it answers, a file each."""

from workers.rollout.policies.engine.player import Model

__all__ = ["Model"]
