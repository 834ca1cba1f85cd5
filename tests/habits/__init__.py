"""Small apps in the shapes that people have, before and after their move to this package.

Each folder is an app: `before.py` and `after.py` differ by what the move takes. docs/moving.md has
the differences, and `python -m tests.habits` renews them there.
"""
