"""A PostgreSQL whose users are let in, or turned away, in all kinds of ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from harness.postgres import postgres


@contextmanager
def server_of_users() -> Iterator[dict[str, Any]]:
    """The parts of the URL of such a server of the caller's own, for a user who is let in."""
    with postgres() as url, psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as own:
        own.execute("CREATE USER ann PASSWORD 'right'")
        own.execute("CREATE USER full PASSWORD 'right' CONNECTION LIMIT 0")
        own.execute("CREATE ROLE nologin NOLOGIN")
        own.execute("CREATE DATABASE closed")
        own.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
        own.execute("CREATE DATABASE small CONNECTION LIMIT 0")
        (hba,) = own.execute("SHOW hba_file").fetchone() or ("",)
        users = "ann,full,nobody 127.0.0.1/32 scram-sha-256"
        trusted = "postgres,nologin,stranger 127.0.0.1/32 trust"
        Path(hba).write_text(f"host all {users}\nhost all {trusted}\n")
        own.execute("SELECT pg_reload_conf()")
        where = {"host": "127.0.0.1", "port": own.info.port, "database": "postgres"}
        yield {"drivername": "postgresql", "username": "ann", "password": "right", **where}
