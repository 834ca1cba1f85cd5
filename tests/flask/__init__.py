"""The Flask side: apps, binds, what a view forgets, and what the client is answered."""
