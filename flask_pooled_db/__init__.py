"""Pooled database connections for Flask applications whose authors write SQL by hand."""

from flask_pooled_db.errors import (
    CommitOutcomeUnknown,
    ConfigError,
    ConnectFailed,
    DeadlineExceeded,
    PoolClosed,
    PooledDBError,
    PoolTimeout,
    TransactionAborted,
    UnknownBind,
    UsageError,
)
from flask_pooled_db.flask.extension import PooledDB, db_connection_context, get_db_connection
from flask_pooled_db.pool import PoolStats
from flask_pooled_db.pool.ageing import Housekeeping

__all__ = [
    "CommitOutcomeUnknown",
    "ConfigError",
    "ConnectFailed",
    "DeadlineExceeded",
    "Housekeeping",
    "PoolClosed",
    "PoolStats",
    "PoolTimeout",
    "PooledDB",
    "PooledDBError",
    "TransactionAborted",
    "UnknownBind",
    "UsageError",
    "db_connection_context",
    "get_db_connection",
]
