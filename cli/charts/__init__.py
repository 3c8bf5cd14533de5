"""Pictures of results, drawn by matplotlib (the extra `plots`), which is imported when one is asked for."""
