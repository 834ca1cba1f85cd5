"""What is said about a wrong configuration."""

from __future__ import annotations

import pytest
from flask import Flask

from flask_pooled_db import ConfigError, PooledDB, UsageError
from flask_pooled_db.config import PoolConfig
from tests.config.configs import URL, problems_of


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("POOLED_DB_MAXCONECTIONS", ": did you mean POOLED_DB_MAXCONNECTIONS?"),
        ("POOLED_DB_MAX_CONNECTIONS", ": did you mean POOLED_DB_MAXCONNECTIONS?"),
        ("POOLED_DB_url", ": did you mean POOLED_DB_URL?"),
        (
            "POOLED_DB_PASSWORD_FILE",
            ": it is a part of the URL, as in POOLED_DB_URL = {'password_file': ...}",
        ),
        ("POOLED_DB_BIND", ": did you mean POOLED_DB_BINDS?"),
        ("POOLED_DB_POOL_RECYCLE", ": remove it, or correct its spelling"),
        ("POOLED_DB_", ": remove it, or correct its spelling"),
    ],
)
def test_unknown_key(key: str, hint: str) -> None:
    """An unknown key is refused, with a suggestion."""
    assert problems_of({"POOLED_DB_URL": URL, key: 1}) == (f"{key} is not a known key{hint}",)


def test_keys_without_prefix() -> None:
    """Keys without the prefix are ignored."""
    keys = {"SECRET_KEY": "x", "POOLED": 1, "pooled_db_url": 2, "XPOOLED_DB_URL": 3}
    app = Flask("app_under_test")
    app.config.update({"POOLED_DB_URL": URL, **keys})
    PooledDB(app).close()


def test_all_problems_at_once() -> None:
    """One error lists every problem, those of binds and drivers included."""
    problems = problems_of(
        {
            "POOLED_DB_URL": "mysql://h/d",
            "POOLED_DB_MINCACHED": "3",
            "POOLED_DB_MAXCACHED": 9,
            "POOLED_DB_MAXCONNECTIONS": 4,
            "POOLED_DB_PNIG": 1,
            "POOLED_DB_BINDS": {
                "a": "nonsense",
                "b": {"URL": URL, "RESET": "no"},
                "c": "oracle://h/d",
                "d": {"URL": "mysql://h/d", "CONNECT_ARGS": {"autocommit": True, "host": "x"}},
                "e": {},
            },
        }
    )
    told = "\n".join(problems)
    for beginning in (
        "POOLED_DB_MINCACHED must",
        "POOLED_DB_MAXCACHED (9) is more than POOLED_DB_MAXCONNECTIONS (4)",
        "POOLED_DB_PNIG is not a known key: did you mean POOLED_DB_PING?",
        "POOLED_DB_BINDS['a'].URL does not have the form",
        "POOLED_DB_BINDS['b'].RESET must be 'changed' or 'rollback' or 'session'",
        "POOLED_DB_BINDS['c']: the scheme oracle:// is not known",
        "POOLED_DB_BINDS['d']: the URL and CONNECT_ARGS differ on 'host'",
        "POOLED_DB_BINDS['e'].URL is not set",
    ):
        assert beginning in told
    assert str(ConfigError(problems)).startswith(f"{len(problems)} problems in the configuration:")


def test_no_consequential_problems() -> None:
    """A problem is reported without those that it causes."""
    keys = {"POOLED_DB_BINDS": {"a": {"URL": URL, "MINCACHED": "x"}, "b": URL}}
    assert len(problems_of(keys)) == 1


def test_one_wrong_key() -> None:
    """One wrong key prevents a config, whichever way it is made."""
    with pytest.raises(ConfigError):
        PoolConfig.from_mapping({"URL": URL, "MINCACHED": "3"})


def test_wrong_url() -> None:
    """A wrong URL is not also reported as missing."""
    for keys in ({"POOLED_DB_URL": "shop.db"}, {"POOLED_DB_BINDS": {"a": "shop.db"}}):
        (problem,) = problems_of(keys)
        assert "does not have the form" in problem


def test_init_app_after_error() -> None:
    """After a refused `init_app`, the app can be initialised with another configuration."""
    app = Flask("app_under_test")
    app.config["POOLED_DB_URL"] = "nonsense"
    db = PooledDB()
    with pytest.raises(ConfigError):
        db.init_app(app)
    assert not app.teardown_appcontext_funcs
    app.config["POOLED_DB_URL"] = URL
    db.init_app(app)
    with pytest.raises(UsageError, match="already"):
        db.init_app(app)
    db.close()
