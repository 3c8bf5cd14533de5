"""Improvement: stored play becomes samples, samples an update, and the update a version that plays next."""
