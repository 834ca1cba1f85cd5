"""What the pool costs, each time beside its peers: `python -m benchmarks`."""
