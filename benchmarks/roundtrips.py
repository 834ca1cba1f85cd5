"""Round trips on the wire, counted by a proxy, for each kind of scope on a warm connection."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.contenders import DBUTILS, Block, Contender, Place, ours, pools_on, sizes
from benchmarks.effort import Effort
from benchmarks.measure import Bar, Row, compare
from harness.proxy import Proxy
from harness.server import MariaDBServer
from harness.workloads import add, create_accounts

SCOPES = 10
STATEMENTS = (0, 1, 3)


def run(effort: Effort) -> list[Row]:
    """The same for any effort: nothing here depends on chance or time."""
    with (
        MariaDBServer() as server,
        Proxy(server.host, server.port) as proxy,
    ):
        database = server.create_database()
        create_accounts(server, database, 1, 0)
        place = Place.of(server, database, proxy.port)
        return [*_of_pymysql(place, proxy), *_of_connector(place, proxy)]


def _of_pymysql(place: Place, proxy: Proxy) -> list[Row]:
    with ExitStack() as stack:
        pools = stack.enter_context(pools_on(place, 1))
        rested = stack.enter_context(ours(URL=place.urls["pymysql"], PING_AFTER=0, **sizes(1)))
        return [
            *compare_scopes(pools, proxy, DBUTILS),
            *_compare("no statement, PING_AFTER over", [rested, *pools[1:]], proxy, 0, 1),
        ]


def _of_connector(place: Place, proxy: Proxy) -> list[Row]:
    """The MariaDB connector tells what PyMySQL can't: that a SELECT has opened a transaction."""
    with ExitStack() as stack:
        contenders = [
            stack.enter_context(ours(URL=place.urls["mariadbconnector"], **sizes(1))),
            stack.enter_context(pools_on(place, 1))[1],
        ]
        return _compare("1 x UPDATE, MariaDB connector", contenders, proxy, 1, 2)


def compare_scopes(pools: list[Contender], proxy: Proxy, peer: str) -> list[Row]:
    """Scopes of some statements: those that write, then the readonly ones."""
    rows = []
    for count in STATEMENTS:
        most = count + 1 if count else 0
        rows += _compare(f"{count} x UPDATE", pools, proxy, count, most, peer=peer)
    for count in STATEMENTS:
        case = f"{count} x SELECT, readonly"
        rows += _compare(case, pools, proxy, count, count, peer=peer, readonly=True)
    return rows


def _compare(
    case: str,
    contenders: list[Contender],
    proxy: Proxy,
    statements: int,
    most: int,
    *,
    readonly: bool = False,
    peer: str = DBUTILS,
) -> list[Row]:
    samples = {
        contender.name: [_count(contender, proxy, statements, readonly=readonly)]
        for contender in contenders
    }
    # It is a bar for ours alone: the row of one peer is enough to show it.
    bars = {peer: Bar(most, at_most=True, of_ratio=False)}
    return compare(case, "round trips", samples, bars)


def _count(contender: Contender, proxy: Proxy, statements: int, *, readonly: bool) -> float:
    """How many a scope takes, the mean of some."""
    block = contender.reading if readonly else contender.block
    with contender.around():
        # The first one opens the connection and brings it in this mode; after some, psycopg
        # prepares the statement.
        for _ in range(SCOPES):
            _use(block, statements, readonly=readonly)
        proxy.reset_counts()
        for _ in range(SCOPES):
            _use(block, statements, readonly=readonly)
    return proxy.round_trips / SCOPES


def _use(block: Block, statements: int, *, readonly: bool) -> None:
    with block() as connection:
        for _ in range(statements):
            if readonly:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT balance FROM accounts WHERE id = 1")
                    cursor.fetchall()
            else:
                add(connection, 1, 1)
