"""What the tests stand on: a MariaDB server, a faulty network, the naive reference."""
