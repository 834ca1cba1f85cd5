"""The configuration of an app: all its pools, and what they have to keep together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flask_pooled_db.config import checks
from flask_pooled_db.config.fields import DEFAULT_BIND, PREFIX, Field
from flask_pooled_db.config.pool import (
    KEYS,
    OF_TENANTS,
    PoolConfig,
    build_config,
    read_keys,
)
from flask_pooled_db.config.url import parse_url
from flask_pooled_db.errors import ConfigError

APP_KEYS = {
    **KEYS,
    "BINDS": Field("binds", checks.binds, {}, scope="database"),
    "BIND_IDLE_TIMEOUT": Field("bind_idle_timeout", checks.seconds, 1800.0, scope="app"),
    "MAX_BINDS": Field("max_binds", checks.count, 0, scope="app"),
    "BINDS_MAXCONNECTIONS": Field("binds_maxconnections", checks.count, 0, scope="app"),
    "RECORD_STATEMENTS": Field("record_statements", checks.flag, None, scope="app"),
    "RUNTIME_DIR": Field("runtime_dir", checks.runtime_dir, None, scope="app"),
    "OTEL": Field("otel", checks.otel, None, scope="app"),
    "REQUEST_DEADLINE": Field("request_deadline", checks.seconds, 0.0, scope="app"),
}
"""The keys of an app, which may describe several pools."""

_DATABASE_ONLY = frozenset(field.name for field in KEYS.values() if field.scope == "database")
_APP_ONLY = tuple(field for field in APP_KEYS.values() if field.scope == "app")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """The configuration of an app: its binds, and what those that are loaded by name have to keep.

    `binds_maxconnections` is how many connections all binds may have together in a process; 0: any
    number. `record_statements` is None if that is up to `app.testing` and `app.debug`.
    `runtime_dir` is where the processes of the app meet: None for the default, "" for nowhere.
    `otel` is what OpenTelemetry is told; None: nothing. `request_deadline` is how many seconds a
    request has for its databases; 0: any number. `inherited` are the sizes and times that each bind
    has, unless its own settings say otherwise.
    """

    binds: Mapping[str, PoolConfig]
    bind_idle_timeout: float
    max_binds: int
    binds_maxconnections: int = 0
    record_statements: bool | None = None
    runtime_dir: str | None = None
    otel: Literal["metrics", "all"] | None = None
    request_deadline: float = 0.0
    inherited: Mapping[str, Any] = field(repr=False)

    @property
    def acquire_timeout(self) -> float:
        """How many seconds a caller waits, unless it or the bind says otherwise."""
        return float(self.inherited.get("acquire_timeout", KEYS["ACQUIRE_TIMEOUT"].default))

    def read_bind(self, name: str, settings: Any) -> PoolConfig:
        """Return the config of a bind from its settings: a URL, or a mapping of keys. It opens
        nothing ahead of its callers, unless they say so.

        Raises `ConfigError` with every problem.
        """
        prefix = f"bind_loader({checks.shown(name)})."
        problems: list[str] = []
        try:
            checks.bind_settings(settings)
        except checks.Invalid as invalid:
            raise ConfigError([f"{prefix[:-1]} {invalid}"]) from None
        read = _read_settings(settings, prefix, problems)
        if OF_TENANTS & read.keys():
            servers = {name: one for name, one in self.binds.items() if one.server is None}
            config = _tenant(read, servers, prefix, problems)
        else:
            config = build_config(read, {**self.inherited, "mincached": 0}, prefix, problems)
        if problems or config is None:
            raise ConfigError(problems)
        return config


def read_app(mapping: Mapping[str, Any], default_url: str, problems: list[str]) -> AppConfig:
    """Return the config of an app and of every bind that it names, and append to `problems`.

    A bind inherits the top-level sizes and times as its defaults, but never the top-level database.
    If no database is set at all, the default bind uses `default_url`.
    """
    values = read_keys(mapping, PREFIX, APP_KEYS, problems)
    binds = values.pop("binds", {})
    of_app = {one.name: values.pop(one.name, one.default) for one in _APP_ONLY}
    top: dict[str, Any] = dict(values)
    if not binds and not ({"url", "creator"} & values.keys()):
        top["url"] = parse_url(default_url)
    configs: dict[str, PoolConfig | None] = {}
    tenants: dict[str, dict[str, Any]] = {}
    if not binds or _DATABASE_ONLY & values.keys():
        configs[DEFAULT_BIND] = build_config(top, {}, PREFIX, problems)
    inherited = {name: value for name, value in values.items() if name not in _DATABASE_ONLY}
    for name, settings in binds.items():
        prefix = f"{PREFIX}BINDS[{name!r}]."
        read = _read_settings(settings, prefix, problems)
        if OF_TENANTS & read.keys():
            tenants[name] = read
        else:
            configs[name] = build_config(read, inherited, prefix, problems)
    servers = dict(configs)
    for name, read in tenants.items():
        where = f"{PREFIX}BINDS[{name!r}]."
        configs[name] = _tenant(read, servers, where, problems)
    for name, config in configs.items():
        if config is not None and config.replica is not None and name not in tenants:
            _check_replica(name, config.replica, configs, problems)
    found = {name: config for name, config in configs.items() if config is not None}
    if limit := of_app["binds_maxconnections"]:
        are_set = {name for name in found if _sets_mincached(binds.get(name))}
        are_set = set(found) if "mincached" in values else are_set
        found = _fit_together(found, are_set, limit, problems)
    return AppConfig(binds=found, inherited=inherited, **of_app)


def _read_settings(settings: Any, prefix: str, problems: list[str]) -> dict[str, Any]:
    """Return the values of a bind's settings: a URL, or a mapping of keys."""
    by_key = settings if isinstance(settings, Mapping) else {"URL": settings}
    prefixed = {f"{prefix}{key}": value for key, value in by_key.items()}
    return read_keys(prefixed, prefix, KEYS, problems)


def _tenant(
    values: dict[str, Any],
    servers: Mapping[str, PoolConfig | None],
    prefix: str,
    problems: list[str],
) -> PoolConfig | None:
    """Return the config of a tenant, or None if there is a problem. `servers` are the binds that
    SERVER may name, those with a problem as None.
    """
    before = len(problems)
    server, schema = values.get("server"), values.get("schema")
    if others := sorted(f"{prefix}{name.upper()}" for name in values.keys() - OF_TENANTS):
        problems.append(
            f"{', '.join(others)} can't be set beside {prefix}SERVER: a tenant has its server's "
            "connections and settings; remove it, or set it there"
        )
    if "server" not in values:
        problems.append(
            f"{prefix}SCHEMA is set without {prefix}SERVER: add the name of the bind whose "
            "connections it uses"
        )
    elif "schema" not in values:
        problems.append(f"{prefix}SERVER is set without {prefix}SCHEMA: add the name of its schema")
    if server is not None and server not in servers:
        problems.append(
            f"{prefix}SERVER names no bind that has a database of its own: name one that is in "
            f"{PREFIX}BINDS and has no SERVER itself"
        )
    found = None if server is None else servers.get(server)
    if len(problems) > before or found is None or schema is None:
        return None
    return replace(found, server=server, schema=schema)


def _sets_mincached(settings: Any) -> bool:
    return isinstance(settings, Mapping) and settings.get("MINCACHED") is not None


def _fit_together(
    configs: dict[str, PoolConfig], are_set: set[str], limit: int, problems: list[str]
) -> dict[str, PoolConfig]:
    """Return the configs with default numbers of `mincached` that fit a common limit; `are_set` are
    those in which it is none.
    """
    own = {name for name, config in configs.items() if config.server is None}  # connections
    kept = sum(configs[name].mincached for name in are_set & own)
    if kept > limit:
        problems.append(
            f"{PREFIX}BINDS_MAXCONNECTIONS ({limit}) is less than the MINCACHED of all binds "
            f"together ({kept}): raise the first or lower the others"
        )
    share = max(limit - kept, 0) // max(len(own - are_set), 1)
    return {
        name: config
        if name in are_set or config.mincached <= share
        else replace(config, mincached=share)
        for name, config in configs.items()
    }


def _check_replica(
    bind: str, replica: str, configs: Mapping[str, PoolConfig | None], problems: list[str]
) -> None:
    where = f"{PREFIX}REPLICA" if bind == DEFAULT_BIND else f"{PREFIX}BINDS[{bind!r}].REPLICA"
    if replica == bind:
        problems.append(f"{where} is the bind itself: name another one")
    elif replica not in configs:
        # Don't show the value: it may be a URL that was put there by mistake.
        problems.append(f"{where} names no bind that is in {PREFIX}BINDS: add it there")
    elif (config := configs[replica]) is not None and config.server is not None:
        problems.append(f"{where} names a bind that has a SERVER: name that one")
