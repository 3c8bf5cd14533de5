"""The store checked against itself, while it is used: every picture decoded, every hash computed anew.

    findings  what a check tells
    content   frames, texts and artifacts against their hashes
    traces    episodes against their turns, and turns against what they name
    figures   what an episode's row must say by its turns and its job's spec
    values    what the columns of a row hold
    jobs      jobs, steps and events against one another
    waste     what nothing names

``python -m app.fsck`` is the verb ``fsck``.
"""
