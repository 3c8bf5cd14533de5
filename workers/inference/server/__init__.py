"""The engine behind an OpenAI-compatible address: ``python -m workers.inference.server``."""
