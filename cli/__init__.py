"""The command line. It speaks HTTP to the API and imports specs and errors only."""
