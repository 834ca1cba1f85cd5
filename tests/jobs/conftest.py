"""What the tests of jobs share."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.redis import RedisServer
from harness.server import MariaDBServer
from tests.jobs.sites import Site, write_page


@pytest.fixture
def make_site(
    tmp_path: Path, mariadb: MariaDBServer, redis_server: RedisServer
) -> Callable[[], Site]:
    """Make sites on one folder, each with its own database and queue."""
    write_page(tmp_path)
    redis_server.empty()
    numbers = itertools.count()

    def make() -> Site:
        site = Site(tmp_path, mariadb, redis_server, next(numbers))
        site.create_tables()
        return site

    return make


@pytest.fixture
def shop(make_site: Callable[[], Site]) -> Site:
    """A single one."""
    return make_site()
