"""What is kept, and for how long: jobs and frames by age, and never what somebody still names or needs.

    policy    which jobs are past their time
    unnamed   frames, texts and files that nothing names any more
    prune     both, in small transactions, with a count of what went
    keeper    the same once an hour, beside the scheduler

``python -m app.retention`` is the verb ``db prune``.
"""
