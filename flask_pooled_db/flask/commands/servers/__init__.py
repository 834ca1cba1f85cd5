"""What commands tell of the servers behind the pools: `check` and `server`."""
