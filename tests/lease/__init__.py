"""The lease and the scope: transactions on a connection that is lent."""
