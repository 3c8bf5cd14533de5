"""The trainer's child: does what its worker calls for, one call after another, and keeps the model between them.

A target is a function that a call names. In a child of several processes all of them run it at once; what the first one
gives and tells goes to the worker.
"""

from workers.trainer.child.held import Cancelled, Held, Target

__all__ = ["Cancelled", "Held", "Target"]
