"""`flask pooled-db stress`: load for a pool, and what it leaves behind."""
