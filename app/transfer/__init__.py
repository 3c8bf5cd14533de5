"""Stores come and go: what brings another store's traces into this one, as rows that are not changed on the way.

    tables    rows as a database holds them: JSON as text, whatever the database
    source    another store or a tracing v3 database, opened to be read and never changed
    stores    the jobs of another synthq store, one transaction each
    sessions  the sessions of a tracing v3 database, as plain records
    episodes  such sessions as one eval job of this store
    command   the verbs ``traces import`` and ``traces merge``

Replies are read by the one parser of replies, which is a worker's; so these verbs start in ``workers.rollout.bring_in``.
"""
