"""The engines there are: how each one's server is started, checked and told of adapters."""
