"""A stand-in for flask_mysqldb, which needs a C library: the same shape over PyMySQL."""

from __future__ import annotations

from typing import Any

import pymysql
import pymysql.cursors
from flask import Flask, current_app, g
from pymysql.err import IntegrityError

__all__ = ["IntegrityError", "MySQL"]


class MySQL:
    """Opens a connection at its first use in an app context, and closes it at the context's end."""

    def init_app(self, app: Flask) -> None:
        """Take the settings `MYSQL_...`."""
        app.config.setdefault("MYSQL_PORT", 3306)
        app.config.setdefault("MYSQL_CURSORCLASS", "Cursor")
        app.teardown_appcontext(self._close)

    @property
    def connection(self) -> Any:
        """The app context's connection."""
        if "mysql_db" not in g:
            config = current_app.config
            g.mysql_db = pymysql.connect(
                host=config["MYSQL_HOST"],
                port=config["MYSQL_PORT"],
                user=config["MYSQL_USER"],
                password=config["MYSQL_PASSWORD"],
                database=config["MYSQL_DB"],
                cursorclass=getattr(pymysql.cursors, config["MYSQL_CURSORCLASS"]),
            )
        return g.mysql_db

    def _close(self, error: BaseException | None) -> None:
        connection = g.pop("mysql_db", None)
        if connection is not None:
            connection.close()
