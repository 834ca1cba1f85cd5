"""Whose a connection is that a server lists, and when nobody can tell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from flask_pooled_db.drivers.facts import Activity, ServerFacts, ServerSession
from flask_pooled_db.drivers.sockets import Ends
from flask_pooled_db.flask.commands.servers.owners import Whose, owned, why_not_told_apart
from flask_pooled_db.flask.commands.servers.probing import Probe
from flask_pooled_db.host import HostStats, ProcessStats
from flask_pooled_db.lease.dbutils import Pool
from tests.support.pools import open_pool

OWN = ServerSession(
    id=1,
    user="app",
    host="10.0.0.1",
    port=5000,
    database="shop",
    label="flask[7] default",
    activity=Activity.ACTIVE,
    seconds=0.0,
)
FACTS = ServerFacts(product="MariaDB", version="1", identity="a", max_connections=9)
ENDS = Ends(("10.0.0.1", 5000), ("10.0.0.2", 3306))
LIVING = 4711


@pytest.fixture
def pool() -> Iterator[Pool]:
    with open_pool(url="sqlite://") as pool:
        yield pool


def probe(pool: Pool, *others: ServerSession, **changed: Any) -> Probe:
    """What a server tells that has these connections beside the command's own."""
    told = {"facts": FACTS, "own_id": 1, "ends": ENDS, "sessions": (OWN, *others)}
    return Probe(pool=pool, **{**told, **changed})


def stats(*ids: int, **numbers: Any) -> HostStats:
    """One process that lives and has published these ids."""
    pools = {"default": {"server_ids": list(ids)}}
    return HostStats((ProcessStats("t", LIVING, 9.0, 0.1, {"pools": pools, **numbers}),))


@pytest.mark.parametrize(
    ("changed", "whose"),
    [
        ({}, Whose.UNKNOWN),
        ({"label": None}, Whose.UNKNOWN),
        ({"label": "gunicorn[5] default"}, Whose.UNKNOWN),
        ({"label": f"gunicorn[{LIVING}] default"}, Whose.WORKER),  # opened since it published
        ({"label": f"gunicorn[{LIVING}] other"}, Whose.OTHERS),
        ({"label": "mysql"}, Whose.OTHERS),
        ({"host": "10.0.0.9"}, Whose.ELSEWHERE),
        ({"user": "root"}, Whose.OTHERS),
        ({"user": "root", "label": f"gunicorn[{LIVING}] default"}, Whose.OTHERS),
        ({"database": "other"}, Whose.OTHERS),
        ({"id": 2}, Whose.WORKER),
        ({"id": 2, "database": "a tenant's"}, Whose.WORKER),
        ({"id": 2, "user": "root"}, Whose.OTHERS),  # the id is another server's
        ({"id": 4}, Whose.WORKER),  # of a bind that was closed
    ],
)
def test_whose(changed: dict[str, Any], whose: Whose, pool: Pool) -> None:
    """The ids that processes publish tell whose a connection is; else the account, the host and
    what it calls itself.
    """
    one = replace(OWN, **{"id": 3, **changed})
    living = stats(2, server_ids={"default": [4]})
    (own, found) = sorted(owned([probe(pool, one)], living), key=lambda each: each.session is one)
    assert (own.whose, own.pid) == (Whose.COMMAND, os.getpid())
    assert found.whose is whose
    assert found.pid == (LIVING if whose is Whose.WORKER else None)


def test_binds_of_other_accounts(pool: Pool) -> None:
    """Of several binds on a server, the one counts whose account a connection has."""
    mine, theirs = replace(OWN, id=3), replace(OWN, id=4, user="log")
    first = probe(pool, mine, theirs)
    own = replace(OWN, id=5, user="log")
    second = probe(pool, mine, theirs, own_id=5, sessions=(own, mine, theirs))
    found = {each.session.id: each for each in owned([first, second], stats())}
    assert (found[3].whose, found[3].probe) == (Whose.UNKNOWN, first)
    assert (found[4].whose, found[4].probe) == (Whose.UNKNOWN, second)


@pytest.mark.parametrize(
    ("own", "changed", "why"),
    [
        ({}, {}, ""),
        ({"host": "127.0.0.1"}, {"ends": Ends(("::ffff:127.0.0.1", 5000), ENDS.peer)}, ""),
        ({"host": "::1"}, {"ends": Ends(("::1", 5000), ENDS.peer)}, ""),
        ({"host": "localhost"}, {"ends": Ends(("127.0.0.1", 5000), ENDS.peer)}, ""),
        ({"host": "", "port": None}, {"ends": None}, ""),  # a local socket
        ({"port": 5001}, {}, "another address"),
        ({"host": "10.0.0.9"}, {}, "another address"),
        ({"host": "nowhere.invalid"}, {}, "another address"),
        ({}, {"ends": None}, "where its connections begin"),
        ({}, {"own_id": None}, "what the server calls its connections"),
        ({}, {"own_id": 9}, "does not list the command's own connection"),
        ({}, {"facts": replace(FACTS, changes_ids=True)}, "other ids than the server"),
    ],
)
def test_told_apart(own: dict[str, Any], changed: dict[str, Any], why: str, pool: Pool) -> None:
    """Machines are told apart only where the server sees the command's own connection as it is."""
    told = why_not_told_apart(probe(pool, **{"sessions": (replace(OWN, **own),), **changed}))
    assert bool(told) is bool(why)
    assert why in told
