"""Each connection tells its server which program, process and bind it is for, if it can."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver
from harness.server import MariaDBServer
from tests.support.pools import open_pool

PROGRAM = Path(sys.argv[0]).name[:20]


def label_of(bind: str) -> str:
    return make_driver(PoolConfig.from_mapping({"URL": "sqlite://"}), bind=bind).label()


def test_label() -> None:
    """The label names the program, the process and the bind. A bind's name may come from outside:
    it is cut, and nothing is in it but ASCII.
    """
    assert label_of("shop") == f"{PROGRAM}[{os.getpid()}] shop"
    hostile = label_of("é\n'; DROP TABLE t" + "x" * 100)
    assert hostile.startswith(f"{PROGRAM}[{os.getpid()}] ??'; DROP TABLE txxx")
    assert len(hostile.encode()) == 63


def test_label_in_child() -> None:
    """The process is the one that connects, also in a forked child."""
    driver = make_driver(PoolConfig.from_mapping({"URL": "sqlite://"}), bind="shop")
    driver.label()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, driver.label().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert f"[{child}]" in pipe.read()


def test_on_mariadb() -> None:
    """PyMySQL sends it as its program's name, unless that is set; the connector takes none, and
    sends the number of the process. Every account is told the labels of its own connections.
    """
    with MariaDBServer(["--performance-schema=ON"]) as server:
        with open_pool(url=server.url("pymysql"), bind="shop") as pool:
            entry = pool.engine.open_outside()
            (session,) = entry.driver.server_sessions(entry.raw)
            entry.end()
        assert session.label == f"{PROGRAM}[{os.getpid()}] shop"
        server.execute("GRANT SELECT ON performance_schema.* TO app")
        database = server.create_database()
        urls = {
            "label": server.url("pymysql", database),
            "own": server.url("pymysql", database) + "?program_name=nightly",
            "connector": server.url("mariadbconnector", database),
        }
        told: dict[str, dict[str, str]] = {}
        for name, url in urls.items():
            with open_pool(url=url, bind=name) as pool, pool.connection() as conn:
                cur = conn.cursor()
                cur.execute(
                    "SELECT attr_name, attr_value FROM performance_schema.session_connect_attrs "
                    "WHERE processlist_id = CONNECTION_ID()"
                )
                told[name] = dict(cur.fetchall())
    assert told["label"]["program_name"] == f"{PROGRAM}[{os.getpid()}] label"
    assert told["own"]["program_name"] == "nightly"
    assert "program_name" not in told["connector"]
    assert {attributes["_pid"] for attributes in told.values()} == {str(os.getpid())}


def application_name(url: Any, **keys: Any) -> str:
    with open_pool(url=url, bind="shop", **keys) as pool, pool.connection() as conn:
        (name,) = conn.execute("SHOW application_name").fetchone()
        return str(name)


def test_on_postgresql(
    shared_postgresql: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On PostgreSQL it is the `application_name`, unless one is set: in the URL or the arguments,
    in PGAPPNAME, or in the file of a service.
    """
    label = rf"{re.escape(PROGRAM)}\[{os.getpid()}\] shop"
    assert re.fullmatch(label, application_name(shared_postgresql))
    assert re.fullmatch(label, application_name(lambda: shared_postgresql))
    assert application_name(f"{shared_postgresql}?application_name=own") == "own"
    fallback = {"conninfo": "fallback_application_name=weak"}
    assert application_name(shared_postgresql, connect_args=fallback) == "weak"
    service = tmp_path / "service.conf"
    service.write_text("[shop]\napplication_name=served\n")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    assert application_name(shared_postgresql, connect_args={"service": "shop"}) == "served"
    monkeypatch.setenv("PGAPPNAME", "surroundings")
    assert application_name(shared_postgresql) == "surroundings"


def test_application_that_connects() -> None:
    """An application's own function is given no label."""
    import pymysql

    given: dict[str, Any] = {}

    def connect(**arguments: Any) -> Any:
        given.update(arguments)
        raise pymysql.OperationalError(2003, "no")

    connect.dbapi = pymysql  # type: ignore[attr-defined]
    driver = make_driver(PoolConfig.from_mapping({"CREATOR": connect}))
    with pytest.raises(pymysql.OperationalError):
        driver.connect()
    assert given == {}
