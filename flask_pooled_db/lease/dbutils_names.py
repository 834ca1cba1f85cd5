"""The private names of DBUtils that this package touches, each with the reason.

DBUtils may change them in any release. A test holds this list against the installed one, and
against the code of this package: nothing else of DBUtils' own is used.
"""

from __future__ import annotations

POOL_NAMES = {
    "_blocking": "whether a caller waits; its constructor sets it",
    "_lock": "replaced by a lock that guards this package's own state",
    "_maxcached": "how many idle connections are kept; its constructor fits it to the others",
    "_maxconnections": "how many may be open; its constructor fits it to the others",
    "_maxshared": "how many may be shared; its constructor makes it 0 where the driver can't share",
}
"""Of `dbutils.pooled_db.PooledDB`, the base class of `Engine`."""

CONNECTION_NAMES = {
    "_close": "overridden: closing is the driver adapter's, which may have to keep silent",
    "_closed": "whether the connection was closed; `_store` sets it",
    "_con": "the driver's own connection; `_store` sets it",
    "_create": "overridden: connecting is the driver adapter's, with one time limit for it all",
    "_cursor": "overridden: it would swap a connection whose cursor fails",
    "_maxusage": "how many statements the connection serves; the constructor sets it",
    "_ping": "when `ping` asks for a check; `_parse_ping` makes it",
    "_ping_check": "overridden: it would swap a dead connection, or keep it when that fails",
    "_pinger": "the check that was configured in place of a ping; `_parse_ping` makes it",
    "_reset": "overridden: it would hide that a rollback failed",
    "_setsession": "runs the statements of `setsession`",
    "_setsession_sql": "those statements; the constructor sets it",
    "_transaction": "DBUtils' mark that `begin()` was called: such a connection is not shared",
    "_usage": "how many statements the connection has served; `_store` sets it to 0",
}
"""Of `dbutils.steady_db.SteadyDBConnection`, the base class of `PooledConnection`."""
