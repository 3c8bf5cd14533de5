"""The batching engine: many prompts at once through one model, without HTTP."""
