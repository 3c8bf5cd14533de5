"""Crafter, rewritten for speed and equal to the package `crafter` 1.8.3 with ordered chunks, bit for bit."""

from workers.rollout.envs.crafter.environment import Crafter

__all__ = ["Crafter"]
