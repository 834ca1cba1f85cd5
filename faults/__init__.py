"""Real servers broken under real load, and a count of what was lost.

`python -m faults` is the long form; `tests/faults` the short one.
"""
