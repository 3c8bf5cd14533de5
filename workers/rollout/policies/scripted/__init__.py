"""The scripted player of Crafter: what it sees, remembers, wants and does, one file each."""

from workers.rollout.policies.scripted.player import Scripted

__all__ = ["Scripted"]
