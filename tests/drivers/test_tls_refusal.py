"""P11: where TLS was asked for, a plaintext connection is refused."""

from __future__ import annotations

import functools
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from flask_pooled_db.errors import ConnectFailed, PoolTimeout
from flask_pooled_db.lease.dbutils import Pool
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


@pytest.mark.parametrize(
    ("name", "makes", "words"),
    [
        ("ssl_ca", None, "No such file or directory"),
        ("ssl_ca", Path.mkdir, "Is a directory"),
        ("ssl_ca", Path.touch, "(?i)no certificate"),
        ("ssl_cert", None, "No such file or directory"),
        ("ssl_cert", Path.touch, "SSL"),
    ],
)
@pytest.mark.parametrize("form", ["argument", "mapping"])
def test_p2_unusable_file(tmp_path: Path, form: str, name: str, makes: Any, words: str) -> None:
    """A file that can't be used is a `ConnectFailed` at once, by its name and its argument."""
    file = tmp_path / "file.pem"
    if makes is not None:
        makes(file)
    arguments: dict[str, Any] = {name: str(file)}
    if form == "mapping":
        arguments = {"ssl": {name.removeprefix("ssl_"): str(file)}}
    keys: dict[str, Any] = {"url": "mysql://ann@127.0.0.1:1/d", "connect_args": arguments}
    with open_pool(**keys) as pool, pytest.raises(ConnectFailed, match=words) as caught:
        pool.lease()
    assert f"the file {str(file)!r} of the connect argument {name!r}" in str(caught.value)


def test_p10_file_comes_late(
    tls_mariadb: MariaDBServer, certificates: Certificates, tmp_path: Path
) -> None:
    """Once a file that was missing is there, the pool works by itself."""
    file = tmp_path / "ca.pem"
    with open_pool(url=tls_mariadb.url("pymysql", ssl_ca=str(file))) as pool:
        with pytest.raises(ConnectFailed):
            pool.lease()
        copy(certificates.ca, file)
        wait_until(functools.partial(_lends, pool))


def _lends(pool: Pool) -> bool:
    try:
        pool.lease().close()
    except ConnectFailed:
        return False
    return True
