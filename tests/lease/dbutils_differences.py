"""Which of DBUtils' tests our pool fails on purpose, and why."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """Tests that fail in one way. `why` names the difference, as `docs/design.md` does."""

    why: str
    error: str
    """The class of the error that they fail with."""
    word: str
    """A word of that error, or of the line of the test that raises it."""
    tests: tuple[str, ...]
    """Their names; one without parameters stands for all of its runs."""


DIFFERENCES = [
    Difference(
        "a session without work is not rolled back",
        "AssertionError",
        "session",
        (
            "test_create_connection",
            "test_rollback",
            "test_maxconnections_blocking",
        ),
    ),
    Difference(
        "`SETSESSION` is committed",
        "AssertionError",
        "session",
        ("test_setsession",),
    ),
    Difference(
        "no connection is replaced under its lease",
        "InternalError",
        "cursor",
        (
            "test_failed_transaction",
            "test_ping_check_when_query_executed",
        ),
    ),
    Difference(
        "no connection is replaced under its lease",
        "TransactionAborted",
        "ping",
        ("test_ping_check_when_cursor_created",),
    ),
    Difference(
        "no connection is replaced under its lease",
        "AssertionError",
        "_usage",
        (
            "test_maxusage[3-1]",
            "test_maxusage[3-2]",
            "test_maxusage[7-1]",
            "test_maxusage[7-2]",
        ),
    ),
    Difference(
        "there is no failover to switch off",
        "AttributeError",
        "_isfatal",
        (
            "test_isfatal",
            "test_isfatal_default",
        ),
    ),
    Difference(
        "there is no failover to switch off",
        "AttributeError",
        "no_failover",
        ("test_no_failover",),
    ),
    Difference(
        "`begin()` begins nothing",
        "UsageError",
        "begin()",
        ("test_sort_shared",),
    ),
    Difference(
        "`begin()` begins nothing",
        "AttributeError",
        "_transaction",
        ("test_reset_transaction",),
    ),
    Difference(
        "no finalizer closes a connection",
        "AssertionError",
        "closed",
        (
            "test_close_all_when_pool_is_deleted",
            "test_close_all_shared_when_pool_is_deleted",
        ),
    ),
    Difference(
        "`close()` of the pool leaves leases alone",
        "AssertionError",
        "_shared_cache",
        ("test_close_all_shared[2]",),
    ),
    Difference(
        "sizes that contradict each other are refused",
        "ConfigError",
        "lower the first",
        (
            "test_min_max_cached[3-2-3-[(4, 3)]-1]",
            "test_min_max_cached[3-2-3-[(4, 3)]-2]",
            "test_maxconnections_raised_to_maxcached",
            "test_maxconnections_raised_to_mincached",
        ),
    ),
    Difference(
        "the connection used last is lent first",
        "AssertionError",
        "_usage",
        ("test_equally_shared",),
    ),
    Difference(
        "a connection is not pinged for one more share",
        "AssertionError",
        "valid",
        ("test_ping_check_when_fetched_shared",),
    ),
    Difference(
        "the thread safety is asked for when the pool is made",
        "ConfigError",
        "threadsafety",
        ("test_creator_with_unsafe_connections",),
    ),
    Difference(
        "the driver's cursor is not handed out",
        "AttributeError",
        "dbapi_cursor",
        ("test_dbapi_connection",),
    ),
]


def difference_of(case: str) -> Difference | None:
    """Return the difference that has a test fail, by its name with its parameters."""
    names = {case, case.partition("[")[0]}
    found = [difference for difference in DIFFERENCES if names & set(difference.tests)]
    assert len(found) < 2, f"{case} is listed twice"
    return found[0] if found else None
