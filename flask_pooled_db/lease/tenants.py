"""What `db.pool()` returns for a tenant: the face of its server's pool, for leases in a schema."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from flask_pooled_db.config import PoolConfig, check_seconds, shown
from flask_pooled_db.drivers import Driver
from flask_pooled_db.errors import ConfigError, UsageError
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool.tenant import Tenant


def why_no_tenants(driver: Driver, config: PoolConfig) -> str:
    """Return why connections of a driver can't serve tenants; an empty text if they can. `config`
    is that of their pool.
    """
    if driver.why_no_schemas:
        return (
            f"its SERVER is a bind of {driver.title}, which can't have tenants by schema: "
            f"{driver.why_no_schemas}"
        )
    if config.reset == "rollback":
        return (
            "its SERVER has RESET 'rollback', so that what one tenant changes in its session would "
            "reach the next: set it to 'changed' or 'session' there"
        )
    return ""


class TenantPool(Pool):
    """The pool of a tenant: connections of its server's pool, each lease of them in its schema.

    Its numbers are those of the server's pool, and so are its settings.
    """

    def __init__(self, config: PoolConfig, server: Pool, bind: str, key: Any = None) -> None:
        """`config` names the schema. Raises `ConfigError` if the server can't have tenants."""
        if problem := why_no_tenants(server.driver, server.config):
            raise ConfigError([problem])
        self.engine = cast("Any", Tenant(server.engine, bind, cast("str", config.schema), key))
        self.counters = server.counters
        self.sharing = None  # of the server's own leases alone
        self._config = config

    @property
    def config(self) -> PoolConfig:
        """The settings of its server, with the names of that and of the schema."""
        return self._config

    def close(self, timeout: float = 0.0) -> None:
        """Lend nothing more, and wait up to `timeout` seconds for leases. The server's pool stays
        open.
        """
        check_seconds("timeout", timeout)
        self.engine.close(timeout)

    def drain(self) -> NoReturn:
        """Raise: the connections are the server's."""
        raise self._refusal("drain()")

    def resize(self, mincached: int, maxcached: int, maxconnections: int) -> NoReturn:
        """Raise: the connections are the server's."""
        raise self._refusal("resize()")

    def _refusal(self, method: str) -> UsageError:
        return UsageError(
            f"{method} of the tenant {shown(self.bind)}: its connections are those of the bind "
            f"{self._config.server!r}; call it there"
        )
