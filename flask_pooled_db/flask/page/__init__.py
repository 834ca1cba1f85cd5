"""The page: what the pools of all workers of this host do, live, for who is let in."""
