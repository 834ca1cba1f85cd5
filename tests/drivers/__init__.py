"""The drivers: what their errors mean, what they can't do, and what of theirs is relied upon."""
