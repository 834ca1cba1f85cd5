"""P4 on Galera: a node that answers pings, and nothing else, is not handed out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from flask_pooled_db import PoolTimeout, db_connection_context
from harness.server import MariaDBServer
from harness.sockets import free_port
from tests.support.apps import pooled_app

pytestmark = pytest.mark.slow

PROVIDER = Path("/usr/lib/galera/libgalera_smm.so")


@pytest.fixture
def node() -> Iterator[MariaDBServer]:
    """A Galera cluster of one node."""
    port = free_port()
    provider_options = ";".join(
        (
            "base_host=127.0.0.1",
            f"base_port={port}",
            f"gmcast.listen_addr=tcp://127.0.0.1:{port}",
            "gcache.size=16M",
            "pc.recovery=false",
            "pc.wait_prim_timeout=PT1S",
        )
    )
    server = MariaDBServer(
        options=[
            "--wsrep-on=ON",
            f"--wsrep-provider={PROVIDER}",
            f"--wsrep-provider-options={provider_options}",
            f"--wsrep-node-address=127.0.0.1:{port}",
            "--wsrep-cluster-address=gcomm://",
            "--wsrep-new-cluster",
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
        ]
    )
    server.start()
    try:
        yield server
    finally:
        server.close()


def set_cluster(node: MariaDBServer, address: str) -> None:
    """Have the node look for another cluster. It closes its clients' connections for that."""
    root = pymysql.connect(host="127.0.0.1", port=node.port, user="root", ssl_disabled=True)
    with root, root.cursor() as cur:
        cur.execute("SET GLOBAL wsrep_cluster_address=%s", (address,))


def test_p4_galera_node_without_cluster(node: MariaDBServer, mariadb_driver: str) -> None:
    """The pool lends no connection to a Galera node that answers pings but has lost its cluster,
    until the node is ready again.
    """
    url = node.url(mariadb_driver, node.create_database())
    with pooled_app(url, ping_after=0, connect_timeout=2) as (_app, db):
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("CREATE TABLE t (id INT PRIMARY KEY) ENGINE=InnoDB")
        set_cluster(node, f"gcomm://127.0.0.1:{free_port()}")
        discarded = db.stats().discarded
        with pytest.raises(PoolTimeout):
            db_connection_context(timeout=0.5).__enter__()
        assert db.stats().discarded > discarded
        set_cluster(node, "gcomm://")
        with db_connection_context(timeout=20) as conn, conn.cursor() as cur:
            cur.execute("INSERT INTO t VALUES (1)")
