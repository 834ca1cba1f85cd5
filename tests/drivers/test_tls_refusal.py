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
def test_p11_plaintext_is_refused_where_tls_was_asked_for(
    mariadb: MariaDBServer, certificates: Certificates, mariadb_driver: str, variant: int
) -> None:
    """No lease is had on a server without TLS, and no connection stays open."""
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
def test_p11_a_server_with_tls_is_talked_to_in_tls(
    tls_mariadb: MariaDBServer, certificates: Certificates, mariadb_driver: str, variant: int
) -> None:
    """The server itself says so."""
    asked = ASK_FOR_TLS[mariadb_driver][variant]
    options: dict[str, Any] = {
        name: text.format(ca=certificates.ca) for name, text in asked.items()
    }
    with open_pool(url=tls_mariadb.url(mariadb_driver, **options)) as pool:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
            assert cursor.fetchone()[1]


def test_p11_a_certificate_of_an_unknown_ca_is_refused(
    tls_mariadb: MariaDBServer, certificates: Certificates, mariadb_driver: str
) -> None:
    """With verification asked for, a server that anybody could be is not talked to."""
    url = tls_mariadb.url(mariadb_driver, ssl_ca=str(certificates.wrong_ca), ssl_verify_cert="true")
    with open_pool(url=url) as pool:
        with pytest.raises((PoolTimeout, ConnectFailed)) as caught:
            pool.lease(timeout=0.5)
        assert caught.value.__cause__ is not None
