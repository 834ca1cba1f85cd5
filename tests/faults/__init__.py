"""Real servers broken under real load, and a count of what was lost.

`python -m tests.faults` is the long form; `test_faults.py` the short one.
"""
