"""``synthq up`` and ``synthq down``: runs the Procfile's processes on this host, with restarts, logs and an ordered stop."""
