"""A model at any OpenAI-compatible endpoint plays: what it is asked, how it is waited for, what it answers, a file each."""

from workers.rollout.policies.openai.player import OpenAI

__all__ = ["OpenAI"]
