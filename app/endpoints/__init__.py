"""What serves models: which inference workers there are, what each should serve, whom to ask, and how a new adapter goes live.

The worker reports what is; the scheduler writes what should be; who plays asks only what is ready.
"""

from app.endpoints.choice import ready, use_of
from app.endpoints.rows import beat, desired_of, failed, live, register, report, stopped

__all__ = ["beat", "desired_of", "failed", "live", "ready", "register", "report", "stopped", "use_of"]
