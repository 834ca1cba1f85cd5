"""Pages in `docs/` that say what was measured, and on what."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata

from harness.postgres import PostgreSQLServer
from harness.server import MariaDBServer

PACKAGES = (
    "Flask",
    "DBUtils",
    "PyMySQL",
    "mariadb",
    "psycopg",
    "psycopg-pool",
    "SQLAlchemy",
    "Flask-SQLAlchemy",
    "gunicorn",
)


def machine_facts() -> list[str]:
    """Return what the numbers depend on, and nothing that names the machine."""
    with MariaDBServer() as mariadb, PostgreSQLServer() as postgresql:
        version = mariadb.query("SELECT VERSION()")[0][0]
        other = postgresql.query("SELECT current_setting('server_version')")[0][0]
    today = datetime.now(UTC).date().isoformat()
    load = f"load average {os.getloadavg()[0]:.1f} at the start"
    return [
        f"{today}, {os.cpu_count()} CPUs ({platform.machine()}), {load}",
        f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}",
        ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES),
        f"MariaDB server {version} and PostgreSQL server {other}, on the loopback interface",
    ]


def page(head: str, facts: Sequence[str], sections: Mapping[str, Iterable[str]]) -> str:
    """Return a whole page: its head, what was measured on, and its sections by their titles."""
    lines = [head, "## Measured on", "", *(f"- {fact}" for fact in facts)]
    for title, section in sections.items():
        lines += ["", f"## {title}", "", *section]
    return "\n".join(lines).rstrip("\n") + "\n"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[str] = ()
) -> list[str]:
    """Return the lines of a table; `numbers` are the columns to be aligned right."""
    right = set(numbers)
    rules = ["---:" if column in right else "---" for column in columns]
    return [_line(columns), _line(rules), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
