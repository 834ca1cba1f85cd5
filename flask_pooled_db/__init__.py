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
from flask_pooled_db.host import HostStats, ProcessStats
from flask_pooled_db.pool import Histogram, PoolStats
from flask_pooled_db.pool.ageing import Housekeeping
from flask_pooled_db.pool.holding import Holder
from flask_pooled_db.telemetry.recording import RecordedStatement

__all__ = [
    "CommitOutcomeUnknown",
    "ConfigError",
    "ConnectFailed",
    "DeadlineExceeded",
    "Histogram",
    "Holder",
    "HostStats",
    "Housekeeping",
    "PoolClosed",
    "PoolStats",
    "PoolTimeout",
    "PooledDB",
    "PooledDBError",
    "ProcessStats",
    "RecordedStatement",
    "TransactionAborted",
    "UnknownBind",
    "UsageError",
    "db_connection_context",
    "get_db_connection",
]
