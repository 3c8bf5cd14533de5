"""The trainer: what learns from lines of a data set, and from play."""
