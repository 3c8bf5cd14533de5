"""Imitation: lines of training data become samples, and a learner goes over them until it says what they say."""

from typing import Final

MOST_TOLD: Final = 20
"""Problems of a file of lines that are told."""
