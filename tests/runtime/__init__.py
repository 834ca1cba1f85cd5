"""The process: the housekeeping, the threads, the fork, the exit."""
