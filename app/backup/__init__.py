"""The whole store in one file, and back. ``python -m app.backup backup FILE`` and ``restore FILE``.

A backup is a zip file: ``store.db``, a SQLite database whichever the store's own is; ``artifacts/...``, if they were asked for;
and ``manifest.json``, which has the size and the sha256 of every other part.
"""
