"""The filter step: chosen episodes become lines of training data, whole or not at all.

==============  =======================================================================================
``step``        the order of work, and why nothing is left
``turns``       which turns become lines, and what each led to
``maker``       turns, texts and frames out of the store, as lines
``spool``       lines that were made, on disk, with what is asked about them in memory
``order``       which of the lines are written, and in which order
``split``       which seeds are kept apart
``files``       the files, their manifest, and their rows
``stats``       what was read, removed and kept
==============  =======================================================================================

The same store and the same spec give the same bytes: every random draw is keyed by the spec's own seeds.
"""

from workers.rollout.export.step import run

__all__ = ["run"]
