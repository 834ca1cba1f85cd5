"""P11: where TLS was asked for, a plaintext connection is refused."""

from __future__ import annotations

from typing import Any

import pytest

from flask_pooled_db.errors import ConnectFailed, PoolTimeout
from harness.server import APP_USER, MariaDBServer
from harness.tls import Certificates
from harness.waiting import wait_until
from tests.support.pools import open_pool

ASK_FOR_TLS = {
    "pymysql": [{"ssl": "true"}, {"ssl_ca": "{ca}"}, {"ssl_ca": "{ca}", "ssl_verify_cert": "true"}],
    "mariadbconnector": [
        {"ssl": "true"},
        {"ssl_ca": "{ca}"},
        {"ssl_ca": "{ca}", "ssl_verify_cert": "true"},
    ],
}


@pytest.mark.mariadb_only  # which can be had without TLS
@pytest.mark.parametrize("variant", range(3))
def test_p11_server_without_tls(
    mariadb: MariaDBServer, certificates: Certificates, mariadb_driver: str, variant: int
) -> None:
    """If TLS was requested, a server without TLS gets no connection, and none stays open."""
    asked = ASK_FOR_TLS[mariadb_driver][variant]
    options: dict[str, Any] = {
        name: text.format(ca=certificates.ca) for name, text in asked.items()
    }
    with open_pool(url=mariadb.url(mariadb_driver, **options)) as pool:
        with pytest.raises((PoolTimeout, ConnectFailed)) as caught:
            pool.lease(timeout=0.5)
        assert caught.value.__cause__ is not None
        wait_until(lambda: not mariadb.connections(APP_USER))


@pytest.mark.parametrize("variant", range(3))
def test_p11_server_with_tls(
    tls_mariadb: MariaDBServer, certificates: Certificates, mariadb_driver: str, variant: int
) -> None:
    """If TLS was requested, the server confirms that it is used."""
    asked = ASK_FOR_TLS[mariadb_driver][variant]
    options: dict[str, Any] = {
        name: text.format(ca=certificates.ca) for name, text in asked.items()
    }
    with open_pool(url=tls_mariadb.url(mariadb_driver, **options)) as pool:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
            assert cursor.fetchone()[1]


def test_p11_unknown_ca(
    tls_mariadb: MariaDBServer, certificates: Certificates, mariadb_driver: str
) -> None:
    """A certificate of an unknown CA is refused if verification was requested."""
    url = tls_mariadb.url(mariadb_driver, ssl_ca=str(certificates.wrong_ca), ssl_verify_cert="true")
    with open_pool(url=url) as pool:
        with pytest.raises((PoolTimeout, ConnectFailed)) as caught:
            pool.lease(timeout=0.5)
        assert caught.value.__cause__ is not None
