"""Imitation: lines of training data become samples, and a learner goes over them until it says what they say."""
