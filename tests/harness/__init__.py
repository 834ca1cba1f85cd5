"""The servers, proxies and processes that the tests, `benchmarks` and `faults` start."""
