"""What becomes of what pools and leases tell: logged, counted, recorded.

Rule of this folder: it listens to the events of pools and of statements, and knows nothing of who
runs them, nor of Flask.
"""
