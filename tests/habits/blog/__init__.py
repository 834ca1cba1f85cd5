"""A blog on sqlite3, in the shape of Flask's tutorial."""
