"""The store checked against itself, while it is used: every picture decoded, every hash computed anew.

    findings  what a check tells
    content   frames, texts and artifacts against their hashes
    traces    episodes against their turns, and turns against what they name
    jobs      jobs, steps and events against one another
    waste     what nothing names

``python -m app.fsck`` is the verb ``fsck``.
"""
