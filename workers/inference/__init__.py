"""The inference worker: a supervisor and one resident child that serves a model over HTTP."""
