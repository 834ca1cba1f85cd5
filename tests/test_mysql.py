"""What is MySQL's own: TLS without being asked, and its limits for statements.

Run with `pytest --mysql`: `mariadb` is a MySQL here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.errors import ConnectFailed, PoolTimeout
from tests.support.pools import open_pool
from tests.support.server import MariaDBServer
from tests.support.tls import make_certificates
from tests.support.workloads import connection_id
from tests.test_fork import CHILDREN, FORKING, run

pytestmark = pytest.mark.mysql_only


def cipher(connection: Any) -> str:
    """What the server encrypts a connection with; nothing where it does not."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        return str(cursor.fetchone()[1])


@pytest.mark.parametrize("options", [{}, {"ssl": "true"}], ids=["plain", "TLS"])
def test_p11_a_connection_is_as_encrypted_as_asked(
    mariadb: MariaDBServer, mariadb_driver: str, options: dict[str, Any]
) -> None:
    """The server itself says so."""
    with open_pool(url=mariadb.url(mariadb_driver, **options)) as pool:
        with pool.connection() as connection:
            assert bool(cipher(connection)) is bool(options)


def test_p11_a_certificate_of_an_unknown_ca_is_refused(
    mariadb: MariaDBServer, mariadb_driver: str, tmp_path: Path
) -> None:
    """With verification asked for, a server that anybody could be is not talked to."""
    ca = make_certificates(tmp_path).wrong_ca
    url = mariadb.url(mariadb_driver, ssl_ca=str(ca), ssl_verify_cert="true")
    with open_pool(url=url) as pool:
        with pytest.raises((PoolTimeout, ConnectFailed)) as caught:
            pool.lease(timeout=0.5)
        assert caught.value.__cause__ is not None


def test_p4_a_dead_tls_connection_is_replaced(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """What lies unread in a TLS connection is a look at its socket away too."""
    with open_pool(url=mariadb.url(mariadb_driver, ssl="true")) as pool:
        numbers = []
        for _ in range(2):
            with pool.connection() as connection:
                assert cipher(connection)
                numbers.append(connection_id(connection))
        assert numbers[0] == numbers[1]
        mariadb.kill_connection(numbers[0])
        with pool.connection() as connection:
            assert connection_id(connection) != numbers[0]


@pytest.mark.parametrize("child", CHILDREN)
def test_p6_a_child_sends_nothing_on_a_tls_connection_of_its_parent(
    mariadb: MariaDBServer, mariadb_driver: str, child: str
) -> None:
    """A goodbye packed in TLS, or a byte out of turn, would end the parent's session."""
    run(CHILDREN[child] + FORKING, mariadb.url(mariadb_driver, ssl="true"))
