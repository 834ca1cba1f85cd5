"""P6 and P12 with psycopg: forks, and the end of the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.postgres import PostgreSQLServer
from harness.postgres_protocol import PostgreSQLSplitter
from harness.proxy import Proxy
from tests.runtime.forking import CHILDREN, FORKING, run_program

WARMS_UP = """
pools = open_pool(url=url, mincached=5)  # nobody closes it
with pools.__enter__().connection() as conn:
    ask(conn, "SELECT 1")
"""


@pytest.fixture
def proxy(postgresql_server: PostgreSQLServer) -> Iterator[Proxy]:
    """A network in front of PostgreSQL that can read what passes."""
    server = postgresql_server
    with Proxy(server.host, server.port, splitter=PostgreSQLSplitter) as proxy:
        yield proxy


@pytest.mark.parametrize("child", CHILDREN)
def test_p6_parents_connections_of_psycopg(
    postgresql_server: PostgreSQLServer, proxy: Proxy, child: str
) -> None:
    """A child, whatever it does, sends nothing on its parent's connections."""
    run_program(CHILDREN[child] + FORKING, postgresql_server.url(port=proxy.port))
    for connection in (1, 2, 3):
        texts = [c.payload for c in proxy.commands if c.connection == connection]
        before = max(i for i, text in enumerate(texts) if b"before the fork" in text)
        assert not any(b"'child'" in text for text in texts[before:])
    assert not [c for c in proxy.commands if b"'child'" in c.payload]


def test_p12_exit_during_connects_of_psycopg(
    postgresql_server: PostgreSQLServer, proxy: Proxy
) -> None:
    """What is being connected when the process ends is finished, and ends with a goodbye."""
    proxy.delay = 0.01
    run_program(WARMS_UP, postgresql_server.url(port=proxy.port))
    ends = {command.connection: command.code for command in proxy.commands}
    assert ends == dict.fromkeys(range(1, proxy.connections + 1), ord("X"))
    assert len(ends) > 1
