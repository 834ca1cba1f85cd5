"""What the tests, `benchmarks` and `faults` stand on: servers, networks and processes, all on
127.0.0.1.
"""
