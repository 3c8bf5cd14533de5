"""Words on record for episodes that synthq did not play itself: by them they are known where they are checked."""

from __future__ import annotations

from typing import Final

FOREIGN: Final = "task-app"
"""Version of an environment, and of a policy, that ran in a task app of somebody else's."""
REPORTED: Final = "reported"
"""Name of a reward that such a task app told without saying which it is; it counts where the job's own is not told."""
SESSION: Final = "tracing_v3"
"""Version of an environment of which a tracing v3 database tells."""
OF_THE_SESSION: Final = "total_reward"
"""Return that a tracing v3 session tells beside the sums over its turns."""
