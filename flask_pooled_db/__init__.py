"""Pooled database connections for Flask applications whose authors write SQL by hand."""

from flask_pooled_db.errors import (
    CommitOutcomeUnknown,
    ConfigError,
    ConnectFailed,
    PoolClosed,
    PooledDBError,
    PoolTimeout,
    TransactionAborted,
    UsageError,
)
from flask_pooled_db.flask.extension import PooledDB, db_connection_context, get_db_connection
from flask_pooled_db.pool import PoolStats

__all__ = [
    "CommitOutcomeUnknown",
    "ConfigError",
    "ConnectFailed",
    "PoolClosed",
    "PoolStats",
    "PoolTimeout",
    "PooledDB",
    "PooledDBError",
    "TransactionAborted",
    "UsageError",
    "db_connection_context",
    "get_db_connection",
]
