"""The filter step: chosen episodes become lines of training data, whole or not at all.

==============  =======================================================================================
``step``        the order of work
``turns``       which turns become lines, and what each led to
``pulse``       a sign of life between two pieces of work
``columns``     numbers about many lines, and the random draws over them
``maker``       turns, texts and frames out of the store, as lines
``spool``       lines that were made, on disk, with what is asked about them in memory
``order``       which of the lines are written, and in which order
``split``       which seeds are kept apart
``files``       the files, their manifest, and their rows
``stats``       what was read, removed and kept
``why``         why no line is left
==============  =======================================================================================

The same store and the same spec give the same bytes: every random draw is keyed by the spec's own seeds.
"""

from workers.rollout.export.step import run

__all__ = ["run"]
