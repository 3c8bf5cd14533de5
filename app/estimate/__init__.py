"""What an ``sft`` or ``rl`` spec comes to before it is submitted: samples, steps, tokens, memory and time.

Nothing is loaded and no other machine is asked. What is not known is said to be unknown, and every figure of time says which job
it was measured in.
"""

from app.estimate.told import Estimate, Given, estimate

__all__ = ["Estimate", "Given", "estimate"]
