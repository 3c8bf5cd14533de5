"""``python -m workers.rollout.bring_in SOURCE...``: traces of other stores, brought in with the one parser of replies.

It stands here because that parser does; all else of it is in ``app.transfer``.
"""

from __future__ import annotations

import sys

from app.records import Parsed, Reply
from app.transfer import command
from workers.rollout import actions, envs


def read_reply(known: tuple[str, ...], reply: Reply) -> Parsed:
    """What a reply of a tracing v3 database means: there, every reply was to call the tool."""
    return actions.parse(reply, reply_format="tool_call", actions=known, max_actions=actions.MAX_ACTIONS)


def main() -> int:
    """Run the verb."""
    known = tuple(envs.make("crafter", {}).actions)
    return command.main(lambda reply: read_reply(known, reply))


if __name__ == "__main__":
    sys.exit(main())
