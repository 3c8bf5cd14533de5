"""The HTTP API, one file for each area. Every router has full paths, so that a route's path is its name in metrics and logs."""
