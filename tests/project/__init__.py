"""The project itself: its layers, README, secrets, benchmarks, and the tests' own support."""
