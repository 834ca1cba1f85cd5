"""A MySQL server in place of the shared MariaDB, for `pytest --mysql`."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import pymysql

from flask_pooled_db.config.url import URLError, parse_url
from harness.processes import ServerError
from harness.server import APP_USER, MariaDBServer
from harness.sockets import DATABASE_PORTS, LOOPBACK

URL_VARIABLE = "POOLED_DB_TEST_MYSQL"

_FORM = f"{URL_VARIABLE} must name a MySQL server: mysql://user:password@{LOOPBACK}:3306/"
_DEFAULT_PORT = 3306
_CANNOT_CREATE_USER = 1396

# What MySQL calls the variables of MariaDB.
_VARIABLES = {"@@tx_": "@@transaction_", "max_statement_time": "max_execution_time"}


def account() -> dict[str, Any]:
    """The account that the variable names, as arguments for PyMySQL.

    Raises `ServerError`, which holds no part of the URL.
    """
    try:
        url = parse_url(os.environ.get(URL_VARIABLE, ""))
    except URLError:
        raise ServerError(_FORM) from None
    is_account = url.dialect == "mysql" and url.username and not url.database and not url.query
    if not is_account or len(url.hosts) != 1 or url.host != LOOPBACK:
        raise ServerError(_FORM)
    return {
        "host": url.host,
        "port": url.port or _DEFAULT_PORT,
        "user": url.username,
        "password": url.password or "",
    }


def versions() -> str:
    """What is tested: the server, and the drivers."""
    try:
        connection: Any = pymysql.connect(**account())
    except pymysql.err.Error as error:
        raise ServerError(f"The server that {URL_VARIABLE} names: {error}") from None
    server = connection.get_server_info()
    connection.close()
    drivers = f"PyMySQL {version('PyMySQL')}, MariaDB Connector/Python {version('mariadb')}"
    return f"MySQL {server}, {drivers}"


class MySQLServer(MariaDBServer):
    """A MySQL server that is running already, with what tests ask of the shared MariaDB.

    It is not started or ended here: what the tests make in it, their user too, is removed. It is
    talked to in plaintext, which a proxy can read, unless a URL says something about TLS.
    """

    many_rows = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)"
        " SELECT /*+ SET_VAR(cte_max_recursion_depth = 200000) */ i FROM n"
    )

    def __init__(self) -> None:
        super().__init__()
        self._account = account()
        self.port = self._account["port"]
        self._databases: list[str] = []
        self._has_app_user = False

    def __repr__(self) -> str:
        return f"<MySQLServer {self.host}:{self.port}>"

    def start(self) -> None:
        """Make the application's user."""
        DATABASE_PORTS.add(self.port)
        try:
            self._create_app_user()
        except pymysql.err.OperationalError as error:
            if error.args[0] != _CANNOT_CREATE_USER:
                raise
            raise ServerError(
                f"{self!r} has a user '{APP_USER}' already; if an interrupted run of the tests left"
                f" it there: DROP USER '{APP_USER}'@'%'."
            ) from error
        self._has_app_user = True

    def close(self) -> None:
        """Remove what the tests made; a forked child leaves it to its parent."""
        if self._has_app_user and os.getpid() == self._owner:
            self._has_app_user = False
            for name in self._databases:
                self.execute(f"DROP DATABASE IF EXISTS `{name}`")
            self.execute(f"DROP USER '{APP_USER}'@'%'")
        super().close()

    def sql(self, text: str) -> str:
        for theirs, ours in _VARIABLES.items():
            text = text.replace(theirs, ours)
        return text

    def url(self, driver: str = "pymysql", *args: Any, **options: Any) -> str:
        if driver == "pymysql" and not any(name.startswith("ssl") for name in options):
            options["ssl_disabled"] = "true"
        return super().url(driver, *args, **options)

    def create_database(self) -> str:
        name = super().create_database()
        self._databases.append(name)
        return name

    def _side_arguments(self) -> dict[str, Any]:
        return self._account
