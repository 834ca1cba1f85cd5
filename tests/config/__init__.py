"""The configuration and the URLs."""
