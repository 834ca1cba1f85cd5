"""The promises as scenarios that can be played on any pool: on ours, and on the naive one.

A scenario takes a stage, and raises AssertionError where the pool on it breaks the promise. Its SQL
has no parameters: the naive pool takes those of its driver alone.
"""

from tests.support.scenarios import commits, endings, interruptions, losses, releases, sessions

__all__ = ["commits", "endings", "interruptions", "losses", "releases", "sessions"]
