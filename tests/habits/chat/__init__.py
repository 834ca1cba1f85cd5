"""A chat whose messages come as events, outside of any request."""
