"""Measures synthq on real parts. Each file prints a table and says how to run it; none of them is a test."""
