"""The configuration of a pool, read from `app.config`; all problems are reported at once."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flask_pooled_db.config import checks
from flask_pooled_db.config.fields import PREFIX, Field, database, keys_of, pool
from flask_pooled_db.config.parts import FIELDS
from flask_pooled_db.config.ping import Ping
from flask_pooled_db.config.proxy import problems_behind
from flask_pooled_db.config.rows import Rows
from flask_pooled_db.config.url import AskedURL, DatabaseURL
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
    transaction_timeout: float = field(default=0.0, metadata=pool(checks.seconds))
    reset: Literal["changed", "rollback", "session"] = field(
        default="changed", metadata=pool(checks.one_of("changed", "rollback", "session"))
    )
    implicit_commit: Literal["warn", "error"] = field(
        default="warn", metadata=pool(checks.one_of("warn", "error"))
    )
    rows: Rows = field(default="tuple", repr=False, metadata=pool(checks.rows))
    leak_threshold: float = field(default=0.0, metadata=pool(checks.seconds))
    slow_acquire: float = field(default=0.0, metadata=pool(checks.seconds))
    slow_statement: float = field(default=0.0, metadata=pool(checks.seconds))
    tag_statements: bool = field(default=False, metadata=pool(checks.flag))
    host_order: Literal["given", "random"] = field(
        default="given", metadata=database(checks.one_of("given", "random"))
    )
    target: Literal["any", "primary"] = field(
        default="any", metadata=database(checks.one_of("any", "primary"))
    )
    proxy: Literal["transaction"] | None = field(
        default=None, metadata=database(checks.one_of("transaction"))
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
        values = read_keys(mapping, prefix, KEYS, problems)
        config = build_config(values, {}, prefix, problems)
        if problems or config is None:
            raise ConfigError(problems)
        return config


KEYS = keys_of(PoolConfig)
"""The keys of a single pool."""

OF_THE_APP = (
    *("BINDS", "BIND_IDLE_TIMEOUT", "MAX_BINDS", "BINDS_MAXCONNECTIONS"),
    *("OTEL", "RECORD_STATEMENTS", "REQUEST_DEADLINE", "RUNTIME_DIR"),
)
"""The keys that an app has, and a bind has not."""

OF_TENANTS = frozenset({"server", "schema"})
"""The names of the keys of a tenant."""

DECISIVE = OF_TENANTS | {"url", "creator"}
"""The names of the keys that say which database it is."""


def read_keys(
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
            problems.append(_unknown_key(full_key, prefix, keys))
        elif value is None and known.none_is_unset:
            continue
        else:
            try:
                values[known.name] = known.check(value)
            except checks.Invalid as invalid:
                problems.append(f"{full_key} {invalid}")
                if known.name in DECISIVE:
                    values[known.name] = None
    return values


def _unknown_key(full_key: str, prefix: str, keys: Mapping[str, Field]) -> str:
    name = full_key[len(prefix) :]
    if name and not checks.is_plain_name(name):  # it may be a URL with a password
        return f"a key that begins with {prefix} is not a name: keys are names such as {prefix}URL"
    if name.lower() in FIELDS:
        part = f"{prefix}URL = {{{name.lower()!r}: ...}}"
        return f"{full_key} is not a known key: it is a part of the URL, as in {part}"
    if name.upper() in OF_THE_APP:
        return f"{full_key} is not a key of a bind: set {PREFIX}{name.upper()}, for the whole app"
    closest = difflib.get_close_matches(name.upper(), list(keys), 1, 0.6)
    remedy = (
        f"did you mean {prefix}{closest[0]}?" if closest else "remove it, or correct its spelling"
    )
    return f"{full_key} is not a known key: {remedy}"


def build_config(
    values: dict[str, Any], defaults: Mapping[str, Any], prefix: str, problems: list[str]
) -> PoolConfig | None:
    """Return the config with these values and fitting sizes, or None if there is a problem."""
    before = len(problems)
    problems += [
        f"{prefix}{name.upper()} makes a bind a tenant: set it in one of {PREFIX}BINDS instead"
        for name in sorted(OF_TENANTS & values.keys())
    ]
    if "url" in values and "creator" in values:
        problems.append(f"{prefix}URL and {prefix}CREATOR are both set: keep one of them")
    if "url" not in values and "creator" not in values:
        problems.append(f"{prefix}URL is not set: give it a database URL, or set {prefix}CREATOR")
    problems += problems_behind(values, defaults, prefix)
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


def fit_sizes(given: Mapping[str, int], config: PoolConfig) -> dict[str, int]:
    """Return the sizes of a pool with this configuration that is given other ones, by name. Those
    that are left out are as configured, as far as they fit to the others.

    Raises `ConfigError` if those that are given contradict each other.
    """
    problems: list[str] = []
    sizes = ("mincached", "maxcached", "maxconnections", "maxshared")
    configured = {name: getattr(config, name) for name in sizes}
    fitting = _fit_sizes(given, configured, "", problems)
    if problems:
        raise ConfigError(problems)
    return fitting


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
