"""TLS with PyMySQL: contexts that are built once, and the same meaning of the arguments."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from typing import Any

import pymysql
import pytest

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver, pymysql_connection
from flask_pooled_db.drivers.pymysql_connection import TLSContexts, connection_class
from harness.server import MariaDBServer
from harness.tls import Certificates


def count_contexts(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each TLS context that is built from now on."""
    built: list[None] = []
    make = ssl.create_default_context

    def create(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        built.append(None)
        return make(*args, **kwargs)

    monkeypatch.setattr(ssl, "create_default_context", create)
    return built


@pytest.mark.mariadb_only  # the URL of a MySQL asks for no TLS
@pytest.mark.parametrize(("server", "expected"), [("plain", 1), ("tls", 2)], indirect=["server"])
def test_tls_contexts_built_once(
    server: MariaDBServer, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pools without TLS arguments have one context together, and others one each."""
    monkeypatch.setattr(pymysql_connection, "WITHOUT_ARGUMENTS", TLSContexts())
    built = count_contexts(monkeypatch)
    pool_of = [PoolConfig.from_mapping({"URL": server.url()}) for _ in range(2)]
    for made in map(make_driver, pool_of):
        for _ in range(3):
            made.close(made.connect())
    assert len(built) == expected


TLS_ARGUMENTS: dict[str, Callable[[Certificates], dict[str, Any]]] = {
    "preferred": lambda made: {},
    "disabled": lambda made: {"ssl_disabled": True},
    "disabled against all": lambda made: {"ssl_disabled": True, "ssl_ca": str(made.ca)},
    "a CA": lambda made: {"ssl_ca": str(made.ca)},
    "no check": lambda made: {"ssl_verify_cert": False, "ssl_ca": str(made.ca)},
    "a check": lambda made: {"ssl_verify_cert": True, "ssl_ca": str(made.ca)},
    "the identity": lambda made: {"ssl_verify_identity": True, "ssl_ca": str(made.ca)},
    "a certificate": lambda made: {
        "ssl_cert": str(made.server_certificate),
        "ssl_key": str(made.server_key),
    },
    "a mapping": lambda made: {"ssl": {"ca": str(made.ca)}},
    "optional": lambda made: {"ssl": {"ca": str(made.ca), "verify_mode": "optional"}},
    "a name unchecked": lambda made: {"ssl": {"ca": str(made.ca), "check_hostname": False}},
    "ciphers": lambda made: {"ssl": {"cipher": "ECDHE-RSA-AES256-GCM-SHA384"}},
}


def tls_of(connection: Any) -> dict[str, Any]:
    """All that a connection would do about TLS."""
    context: Any = getattr(connection, "ctx", None)
    of_context = context and {
        "verify_mode": context.verify_mode,
        "check_hostname": context.check_hostname,
        "verify_flags": context.verify_flags,
        "options": context.options,
        "minimum_version": context.minimum_version,
        "ca": sorted(map(str, context.get_ca_certs())),
        "ciphers": [cipher["name"] for cipher in context.get_ciphers()],
    }
    return {
        "ssl": connection.ssl,
        "required": connection._ssl_required,
        "flags": connection.client_flag,
        "context": of_context,
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", TLS_ARGUMENTS)
def test_p11_tls_arguments(name: str, certificates: Certificates) -> None:
    """The shared context is the one that PyMySQL would build for the same arguments."""
    arguments = TLS_ARGUMENTS[name](certificates)
    ours = functools.partial(connection_class(pymysql), TLSContexts())
    made = [ours(defer_connect=True, **arguments) for _ in range(2)]
    expected = tls_of(pymysql.Connection(defer_connect=True, **arguments))
    assert [tls_of(connection) for connection in made] == [expected, expected]
    assert getattr(made[0], "ctx", None) is getattr(made[1], "ctx", None)


def test_p11_own_context() -> None:
    """An `ssl.SSLContext` of the application is used as it is."""
    own = ssl.create_default_context()
    assert connection_class(pymysql)(TLSContexts(), defer_connect=True, ssl=own).ctx is own


def test_p11_context_per_arguments(certificates: Certificates) -> None:
    """Connections share a context only if their TLS arguments are the same."""
    ours = functools.partial(connection_class(pymysql), TLSContexts())
    checked = ours(defer_connect=True, ssl_ca=str(certificates.ca), ssl_verify_cert=True)
    unchecked = ours(defer_connect=True, ssl_ca=str(certificates.ca), ssl_verify_cert=False)
    assert checked.ctx is not unchecked.ctx
    assert (checked.ctx.verify_mode, unchecked.ctx.verify_mode) == (
        ssl.CERT_REQUIRED,
        ssl.CERT_NONE,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["preferred", "disabled", "a check", "the identity"])
def test_p11_later_connections(
    name: str, tls_mariadb: MariaDBServer, certificates: Certificates
) -> None:
    """The second connection of a pool is encrypted like the first."""
    arguments = {
        **tls_mariadb.connect_args(ask_for_tls=False),
        **TLS_ARGUMENTS[name](certificates),
    }
    driver = make_driver(PoolConfig.from_mapping({"CREATOR": pymysql, "CONNECT_ARGS": arguments}))
    ciphers = []
    for _ in range(2):
        raw = driver.connect()
        with raw.cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
            ciphers.append(bool(cursor.fetchone()[1]))
        driver.close(raw)
    assert ciphers == [name != "disabled"] * 2
