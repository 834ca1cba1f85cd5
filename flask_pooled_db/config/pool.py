"""The configuration of a pool, read from `app.config`; all problems are reported at once."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flask_pooled_db.config import checks
from flask_pooled_db.config.fields import DEFAULT_BIND, PREFIX, Field, database, keys_of, pool
from flask_pooled_db.config.parts import FIELDS
from flask_pooled_db.config.ping import Ping
from flask_pooled_db.config.rows import Rows
from flask_pooled_db.config.url import AskedURL, DatabaseURL, parse_url
from flask_pooled_db.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """The configuration of one pool, and the table of all keys: each is declared once, here.

    The attributes are named like the keys, in lower case. Durations are seconds; 0 switches a
    limit off. Either `url` or `creator` is set. A tenant's are those of its server, with its
    `server` and its `schema`. The repr shows nothing that could hold a password.
    """

    url: DatabaseURL | AskedURL | None = field(
        default=None, metadata=database(checks.url, none_is_unset=False)
    )
    creator: Any = field(default=None, repr=False, metadata=database(checks.creator))
    connect_args: Mapping[str, Any] = field(
        default_factory=dict, repr=False, metadata=database(checks.connect_args)
    )
    mincached: int = field(default=3, metadata=pool(checks.count))
    maxcached: int = field(default=10, metadata=pool(checks.count))
    maxshared: int = field(default=0, metadata=pool(checks.count))
    maxconnections: int = field(default=20, metadata=pool(checks.count))
    blocking: bool = field(default=True, metadata=pool(checks.flag))
    maxusage: int = field(default=0, metadata=pool(checks.count))
    setsession: tuple[str, ...] = field(
        default=(), repr=False, metadata=database(checks.statements)
    )
    ping: Ping = field(default=1, repr=False, metadata=pool(checks.ping))
    acquire_timeout: float = field(default=10.0, metadata=pool(checks.seconds))
    max_waiting: int = field(default=0, metadata=pool(checks.count))
    max_lifetime: float = field(default=1800.0, metadata=pool(checks.seconds))
    idle_timeout: float = field(default=600.0, metadata=pool(checks.seconds))
    drain_interval: float = field(default=0.0, metadata=pool(checks.seconds))
    ping_after: float = field(default=5.0, metadata=pool(checks.seconds))
    connect_timeout: float = field(default=5.0, metadata=pool(checks.positive_seconds))
    statement_timeout: float = field(default=0.0, metadata=pool(checks.seconds))
    reset: Literal["changed", "rollback", "session"] = field(
        default="changed", metadata=pool(checks.one_of("changed", "rollback", "session"))
    )
    implicit_commit: Literal["warn", "error"] = field(
        default="warn", metadata=pool(checks.one_of("warn", "error"))
    )
    rows: Rows = field(default="tuple", repr=False, metadata=pool(checks.rows))
    leak_threshold: float = field(default=0.0, metadata=pool(checks.seconds))
    host_order: Literal["given", "random"] = field(
        default="given", metadata=database(checks.one_of("given", "random"))
    )
    target: Literal["any", "primary"] = field(
        default="any", metadata=database(checks.one_of("any", "primary"))
    )
    replica: str | None = field(default=None, metadata=database(checks.bind_name))
    replica_fallback: bool = field(default=True, metadata=pool(checks.flag))
    server: str | None = field(default=None, metadata=database(checks.bind_name))
    schema: str | None = field(default=None, metadata=database(checks.schema))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], prefix: str = "") -> PoolConfig:
        """Return the config that the keys of `mapping` describe, each with `prefix` before it.

        Raises `ConfigError` with every problem. Keys without the prefix are ignored.
        """
        problems: list[str] = []
        values = _read(mapping, prefix, KEYS, problems)
        config = _build(values, {}, prefix, problems)
        if problems or config is None:
            raise ConfigError(problems)
        return config


KEYS = keys_of(PoolConfig)
"""The keys of a single pool."""

APP_KEYS = {
    **KEYS,
    "BINDS": Field("binds", checks.binds, {}, scope="database"),
    "BIND_IDLE_TIMEOUT": Field("bind_idle_timeout", checks.seconds, 1800.0, scope="app"),
    "MAX_BINDS": Field("max_binds", checks.count, 0, scope="app"),
    "BINDS_MAXCONNECTIONS": Field("binds_maxconnections", checks.count, 0, scope="app"),
}
"""The keys of an app, which may describe several pools."""

_OF_TENANTS = frozenset({"server", "schema"})
_DECISIVE = _OF_TENANTS | {"url", "creator"}
_DATABASE_ONLY = frozenset(field.name for field in KEYS.values() if field.scope == "database")
_APP_ONLY = tuple(field for field in APP_KEYS.values() if field.scope == "app")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """The configuration of an app: its binds, and what those that are loaded by name have to keep.

    `binds_maxconnections` is how many connections all binds may have together in a process; 0: any
    number. `inherited` are the sizes and times that each bind has, unless its own settings say
    otherwise.
    """

    binds: Mapping[str, PoolConfig]
    bind_idle_timeout: float
    max_binds: int
    binds_maxconnections: int = 0
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
        prefix = f"{PREFIX}BINDS[{checks.shown(name)}]."
        problems: list[str] = []
        try:
            checks.bind_settings(settings)
        except checks.Invalid as invalid:
            raise ConfigError([f"{prefix[:-1]} {invalid}"]) from None
        read = _read_settings(settings, prefix, problems)
        if _OF_TENANTS & read.keys():
            servers = {name: one for name, one in self.binds.items() if one.server is None}
            config = _tenant(read, servers, prefix, problems)
        else:
            config = _build(read, {**self.inherited, "mincached": 0}, prefix, problems)
        if problems or config is None:
            raise ConfigError(problems)
        return config


def read_app(mapping: Mapping[str, Any], default_url: str, problems: list[str]) -> AppConfig:
    """Return the config of an app and of every bind that it names, and append to `problems`.

    A bind inherits the top-level sizes and times as its defaults, but never the top-level database.
    If no database is set at all, the default bind uses `default_url`.
    """
    values = _read(mapping, PREFIX, APP_KEYS, problems)
    binds = values.pop("binds", {})
    of_app = {one.name: values.pop(one.name, one.default) for one in _APP_ONLY}
    top: dict[str, Any] = dict(values)
    if not binds and not ({"url", "creator"} & values.keys()):
        top["url"] = parse_url(default_url)
    configs: dict[str, PoolConfig | None] = {}
    tenants: dict[str, dict[str, Any]] = {}
    if not binds or _DATABASE_ONLY & values.keys():
        configs[DEFAULT_BIND] = _build(top, {}, PREFIX, problems)
    inherited = {name: value for name, value in values.items() if name not in _DATABASE_ONLY}
    for name, settings in binds.items():
        prefix = f"{PREFIX}BINDS[{name!r}]."
        read = _read_settings(settings, prefix, problems)
        if _OF_TENANTS & read.keys():
            tenants[name] = read
        else:
            configs[name] = _build(read, inherited, prefix, problems)
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
    return _read(prefixed, prefix, KEYS, problems)


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
    if others := sorted(f"{prefix}{name.upper()}" for name in values.keys() - _OF_TENANTS):
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


def _read(
    mapping: Mapping[str, Any], prefix: str, keys: Mapping[str, Field], problems: list[str]
) -> dict[str, Any]:
    """Check every key of `mapping` that has the prefix, each on its own; return the values by name.

    An invalid URL, creator, server or schema is kept as None, so that it is not also reported as
    missing.
    """
    values: dict[str, Any] = {}
    for full_key, value in mapping.items():
        if not isinstance(full_key, str):
            if not prefix:
                problems.append(f"a key is a {type(full_key).__name__}: keys are strings")
            continue
        if not full_key.startswith(prefix):
            continue
        known = keys.get(full_key[len(prefix) :])
        if known is None:
            problems.append(_unknown_key(full_key, prefix))
        elif value is None and known.none_is_unset:
            continue
        else:
            try:
                values[known.name] = known.check(value)
            except checks.Invalid as invalid:
                problems.append(f"{full_key} {invalid}")
                if known.name in _DECISIVE:
                    values[known.name] = None
    return values


def _unknown_key(full_key: str, prefix: str) -> str:
    name = full_key[len(prefix) :]
    if name and not checks.is_plain_name(name):  # it may be a URL with a password
        return f"a key that begins with {prefix} is not a name: keys are names such as {prefix}URL"
    if name.lower() in FIELDS:
        part = f"{prefix}URL = {{{name.lower()!r}: ...}}"
        return f"{full_key} is not a known key: it is a part of the URL, as in {part}"
    closest = difflib.get_close_matches(name.upper(), list(APP_KEYS), 1, 0.6)
    remedy = (
        f"did you mean {prefix}{closest[0]}?" if closest else "remove it, or correct its spelling"
    )
    return f"{full_key} is not a known key: {remedy}"


def _build(
    values: dict[str, Any], defaults: Mapping[str, Any], prefix: str, problems: list[str]
) -> PoolConfig | None:
    """Return the config with these values and fitting sizes, or None if there is a problem."""
    before = len(problems)
    problems += [
        f"{prefix}{name.upper()} makes a bind a tenant: set it in one of {PREFIX}BINDS instead"
        for name in sorted(_OF_TENANTS & values.keys())
    ]
    if "url" in values and "creator" in values:
        problems.append(f"{prefix}URL and {prefix}CREATOR are both set: keep one of them")
    if "url" not in values and "creator" not in values:
        problems.append(f"{prefix}URL is not set: give it a database URL, or set {prefix}CREATOR")
    sizes = _fit_sizes(values, defaults, prefix, problems)
    # max_waiting only makes sense if callers may block and there is a connection limit.
    for name, value in (("blocking", False), ("maxconnections", 0)):
        if values.get("max_waiting") and values.get(name) == value:
            problems.append(
                f"{prefix}MAX_WAITING has no meaning with {prefix}{name.upper()} {value}: remove "
                "one of them"
            )
    has_database = values.get("url") is not None or values.get("creator") is not None
    if len(problems) > before or not has_database:
        return None
    return PoolConfig(**{**defaults, **values, **sizes})


def _fit_sizes(
    values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str, problems: list[str]
) -> dict[str, int]:
    """Return the four sizes: those that are set, unchanged, and defaults that fit to them."""
    _compare_sizes(values, defaults, prefix, problems)
    sizes = ("mincached", "maxcached", "maxconnections", "maxshared")
    size = {
        name: values.get(name, defaults.get(name, KEYS[name.upper()].default)) for name in sizes
    }
    if size["maxconnections"] and not ("maxconnections" in values or "maxconnections" in defaults):
        given = {**defaults, **values}
        wanted = (given.get(name, 0) for name in ("mincached", "maxcached", "maxshared"))
        size["maxconnections"] = max(size["maxconnections"], *wanted)
    limit = size["maxconnections"] or math.inf
    if "maxcached" not in values and size["maxcached"]:
        size["maxcached"] = int(min(limit, max(size["maxcached"], values.get("mincached", 0))))
    if "mincached" not in values:
        size["mincached"] = int(min(limit, size["maxcached"] or math.inf, size["mincached"]))
    if "maxshared" not in values:
        size["maxshared"] = int(min(limit, size["maxshared"]))
    return size


def _compare_sizes(
    values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str, problems: list[str]
) -> None:
    """Report sizes that were set and contradict each other, or an inherited maximum."""
    limit = values.get("maxconnections", defaults.get("maxconnections"))
    owner = prefix if "maxconnections" in values else PREFIX
    pairs = [("mincached", "maxcached", values.get("maxcached"), prefix)]
    pairs += [
        (name, "maxconnections", limit, owner) for name in ("maxcached", "mincached", "maxshared")
    ]
    for small, large, high, where in pairs:
        low = values.get(small)
        if low and high and low > high:  # a maximum of 0 is no limit
            problems.append(
                f"{prefix}{small.upper()} ({low}) is more than {where}{large.upper()} ({high}): "
                "lower the first or raise the second"
            )
