"""The pool: connections, and who gets them."""
