"""What public functions refuse: wrong binds, seconds and counts."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_pooled_db import PooledDB, UsageError, db_connection_context, get_db_connection
from tests.support.apps import pooled_app

SECRET = "Kolibri7Geheim"


@pytest.fixture
def db(url: str) -> Iterator[PooledDB]:
    """The extension, with two binds, inside its app's context."""
    with pooled_app(url, binds={"log": url}) as (_, db):
        yield db


def work(conn: Any) -> None:
    """Nothing."""


WITH_BIND: dict[str, Callable[[PooledDB, Any], Any]] = {
    "db_connection_context": lambda db, bind: db_connection_context(bind),
    "get_db_connection": lambda db, bind: get_db_connection(bind),
    "pool": lambda db, bind: db.pool(bind),
    "stats": lambda db, bind: db.stats(bind),
    "run_transaction": lambda db, bind: db.run_transaction(work, bind=bind),
}

URLS = [
    f"mysql://u:{SECRET}@h/db",
    f"mysql://root:{SECRET}",
    f"u:{SECRET}@h/db",
    f"host=h password={SECRET}",
]

NOT_STRINGS: list[Any] = [
    {"URL": f"mysql://u:{SECRET}@h/db"},
    f"mysql://u:{SECRET}@h/db".encode(),
    [SECRET],
    (SECRET,),
    7,
    True,
    object(),
]


@pytest.mark.parametrize("use", WITH_BIND.values(), ids=WITH_BIND)
def test_a3_url_as_bind(db: PooledDB, use: Callable[[PooledDB, Any], Any]) -> None:
    """A URL that stands where a bind is named is refused, and not shown."""
    for url in URLS:
        with pytest.raises(UsageError, match="a URL was given where the name of a bind") as caught:
            use(db, url)
        assert caught.value.__context__ is None
        assert SECRET not in repr(caught.value)
        assert "'log'" in str(caught.value)


@pytest.mark.parametrize("use", WITH_BIND.values(), ids=WITH_BIND)
def test_a3_bind_no_string(db: PooledDB, use: Callable[[PooledDB, Any], Any]) -> None:
    """A bind that is no string is refused, and not shown."""
    for bind in NOT_STRINGS:
        with pytest.raises(UsageError, match="bind must be the name of a bind") as caught:
            use(db, bind)
        shown = traceback.format_exception_only(caught.value)
        assert SECRET not in repr(shown)


@pytest.mark.parametrize("use", WITH_BIND.values(), ids=WITH_BIND)
def test_unknown_bind(db: PooledDB, use: Callable[[PooledDB, Any], Any]) -> None:
    """An unknown bind is named, an empty one too: it is not the default database."""
    for bind in ("", "lag", "shop-eu.2"):
        with pytest.raises(UsageError, match=f"no bind '{bind}' in POOLED_DB_BINDS"):
            use(db, bind)
    with pytest.raises(UsageError, match="no bind of that name in POOLED_DB_BINDS") as caught:
        use(db, f"the password is {SECRET}")
    assert SECRET not in str(caught.value)


WITH_SECONDS: dict[str, Callable[[PooledDB, Any], Any]] = {
    "timeout of db_connection_context": lambda db, value: db_connection_context(timeout=value),
    "statement_timeout": lambda db, value: db_connection_context(statement_timeout=value),
    "timeout of get_db_connection": lambda db, value: get_db_connection(timeout=value),
    "timeout of Pool.lease": lambda db, value: db.pool().lease(timeout=value),
    "timeout of Pool.close": lambda db, value: db.pool().close(value),
    "timeout of PooledDB.close": lambda db, value: db.close(value),
}

NO_SECONDS: list[Any] = [
    float("nan"),
    float("inf"),
    -1,
    -0.5,
    True,
    False,
    "3",
    SECRET,
    [],
    1e300,
    10**400,
    1j,
]


@pytest.mark.parametrize(("name", "use"), WITH_SECONDS.items(), ids=WITH_SECONDS)
def test_wrong_seconds(db: PooledDB, name: str, use: Callable[[PooledDB, Any], Any]) -> None:
    """Whatever is no number of seconds is refused; the error names the parameter."""
    start = f"^{name.partition(' ')[0]} must be a number of seconds, 0 or more, not "
    for value in NO_SECONDS:
        with pytest.raises(UsageError, match=start) as caught:
            use(db, value)
        assert SECRET not in str(caught.value)
    get_db_connection().close()  # nothing was closed


WITH_COUNT: dict[str, Callable[[PooledDB, Any], Any]] = {
    "attempts": lambda db, value: db.run_transaction(work, attempts=value),
    "mincached": lambda db, value: db.pool().resize(value, 5, 5),
    "maxcached": lambda db, value: db.pool().resize(0, value, 5),
    "maxconnections": lambda db, value: db.pool().resize(0, 5, value),
}


@pytest.mark.parametrize(("name", "use"), WITH_COUNT.items(), ids=WITH_COUNT)
def test_wrong_count(db: PooledDB, name: str, use: Callable[[PooledDB, Any], Any]) -> None:
    """Whatever is no whole number is refused; the error names the parameter."""
    for value in (*NO_SECONDS, 1.0, None):
        with pytest.raises(UsageError, match=f"^{name} must be a whole number") as caught:
            use(db, value)
        assert SECRET not in str(caught.value)
    assert db.stats().maxconnections == 20


@pytest.mark.parametrize("name", ["readonly", "savepoint", "independent"])
def test_wrong_flag(db: PooledDB, name: str) -> None:
    """A flag of a scope is True or False: a text such as "false" is refused."""
    values: list[Any] = ["false", 1, 0, None, []]
    for value in values:
        with pytest.raises(UsageError, match=f"^{name} must be True or False"):
            db_connection_context(**{name: value})


class Undecided:
    """What comparing gives, as with an array: it is neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("it is ambiguous")


class Strange:
    """A value that can't be compared."""

    def __eq__(self, other: object) -> Any:
        return Undecided()

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    "name",
    ["bind", "readonly", "timeout", "statement_timeout", "isolation_level", "savepoint"],
)
def test_strange_option(db: PooledDB, name: str) -> None:
    """An option that can't be compared is refused like any other."""
    strange: Any = Strange()
    with pytest.raises(UsageError, match=name):
        db_connection_context(**{name: strange})


def test_signature_of_scopes() -> None:
    """`help()` and editors show every option of a scope with its default."""
    shown = inspect.signature(db_connection_context)
    assert str(shown) == (
        "(bind: 'str | None' = None, *, readonly: 'bool' = False, timeout: 'float | None' = None, "
        "statement_timeout: 'float | None' = None, isolation_level: 'str | None' = None, "
        "savepoint: 'bool' = True, independent: 'bool' = False, rows: 'Rows | None' = None) "
        "-> 'Scope'"
    )
    with pytest.raises(TypeError, match=r"^db_connection_context\(\) got an unexpected keyword"):
        db_connection_context(read_only=True)  # type: ignore[call-arg]
