"""The tests of flask_pooled_db; those that need a server run one of their own."""
