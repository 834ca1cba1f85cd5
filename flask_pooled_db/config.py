"""The configuration of a pool, read from `app.config`, every problem of it found at once."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flask_pooled_db.errors import ConfigError
from flask_pooled_db.url import DatabaseURL, URLError, parse_url

PREFIX = "POOLED_DB_"
DEFAULT_BIND = "default"

Ping = int | str | Callable[[Any], Any] | tuple[int, str | Callable[[Any], Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """What one pool is made from. Durations are seconds; 0 switches a limit off.

    The field names are the configuration keys in lower case. Either `url` or `creator` is set.
    The repr shows nothing that could hold a password.
    """

    url: DatabaseURL | None = None
    creator: Any = field(default=None, repr=False)
    connect_args: Mapping[str, Any] = field(default_factory=dict, repr=False)
    mincached: int = 3
    maxcached: int = 10
    maxshared: int = 0
    maxconnections: int = 20
    blocking: bool = True
    maxusage: int = 0
    setsession: tuple[str, ...] = field(default=(), repr=False)
    ping: Ping = field(default=1, repr=False)
    acquire_timeout: float = 10.0
    max_waiting: int = 0
    max_lifetime: float = 1800.0
    idle_timeout: float = 600.0
    ping_after: float = 5.0
    connect_timeout: float = 5.0
    statement_timeout: float = 0.0
    reset: Literal["rollback", "session"] = "rollback"
    leak_threshold: float = 0.0
    host_order: Literal["given", "random"] = "given"
    target: Literal["any", "primary"] = "any"
    replica: str | None = None
    replica_fallback: bool = True

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], prefix: str = "") -> PoolConfig:
        """The config that the keys of `mapping` (`prefix` + a field's name in upper case) make.

        Raises `ConfigError` with every problem. Keys without the prefix are left alone.
        """
        problems: list[str] = []
        values = _read(mapping, prefix, problems)
        config = _build(values, {}, prefix, problems)
        if problems or config is None:
            raise ConfigError(problems)
        return config


def read_binds(
    mapping: Mapping[str, Any], default_url: str, problems: list[str]
) -> dict[str, PoolConfig]:
    """The pools that an `app.config` asks for, by bind name; `problems` takes what is wrong.

    A bind inherits the top-level sizes and times as its own defaults, never the top-level
    database. Without any database set, the default bind is `default_url`.
    """
    values = _read(mapping, PREFIX, problems, extra=("BINDS",))
    binds = values.pop("binds", {})
    top: dict[str, Any] = dict(values)
    if not binds and not ({"url", "creator"} & values.keys()):
        top["url"] = parse_url(default_url)
    configs: dict[str, PoolConfig | None] = {}
    if not binds or _PER_DATABASE & values.keys():
        configs[DEFAULT_BIND] = _build(top, {}, PREFIX, problems)
    inherited = {name: value for name, value in values.items() if name not in _PER_DATABASE}
    for name, settings in binds.items():
        where = f"{PREFIX}BINDS[{name!r}]."
        own = {"URL": settings} if isinstance(settings, str) else settings
        named = {f"{where}{key}": value for key, value in own.items()}
        configs[name] = _build(_read(named, where, problems), inherited, where, problems)
    for name, config in configs.items():
        if config is not None and config.replica is not None:
            _check_replica(name, config.replica, configs, problems)
    return {name: config for name, config in configs.items() if config is not None}


def _check_replica(
    bind: str, replica: str, configs: Mapping[str, PoolConfig | None], problems: list[str]
) -> None:
    where = f"{PREFIX}REPLICA" if bind == DEFAULT_BIND else f"{PREFIX}BINDS[{bind!r}].REPLICA"
    if replica == bind:
        problems.append(f"{where} is the bind itself: name another one")
    elif replica not in configs:
        # Its value is not shown: it may be a URL that was put there by mistake.
        problems.append(f"{where} names no bind that is in {PREFIX}BINDS: add it there")


_PER_DATABASE = frozenset(
    {"url", "creator", "connect_args", "setsession", "target", "host_order", "replica"}
)


def _read(
    mapping: Mapping[str, Any], prefix: str, problems: list[str], extra: Sequence[str] = ()
) -> dict[str, Any]:
    """Every key of `mapping` under `prefix` checked by itself: field name to value.

    A database that was set and is wrong is None, so that it is not said to be missing too.
    """
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if not isinstance(key, str):
            if not prefix:
                problems.append(f"a key is a {type(key).__name__}: keys are strings")
            continue
        if not key.startswith(prefix):
            continue
        name = key[len(prefix) :]
        check = _BINDS_CHECK if name in extra else _CHECKS.get(name)
        if check is None:
            problems.append(f"{key} is not a known key{_closest(name, prefix)}")
        elif value is None and name not in _NEVER_NONE:
            continue  # None means "not set", as in DBUtils
        else:
            try:
                values[name.lower()] = check(value)
            except _Bad as bad:
                problems.append(f"{key} {bad}")
                if name in ("URL", "CREATOR"):
                    values[name.lower()] = None
    return values


def _closest(name: str, prefix: str) -> str:
    known = [*_CHECKS, "BINDS"]
    near = difflib.get_close_matches(name.upper(), known, 1, 0.6)
    return f": did you mean {prefix}{near[0]}?" if near else ": remove it, or correct its spelling"


def _build(
    values: dict[str, Any], defaults: Mapping[str, Any], prefix: str, problems: list[str]
) -> PoolConfig | None:
    """The config of `values`, its defaults fitted to them; None where there is a problem."""
    before = len(problems)
    if "url" in values and "creator" in values:
        problems.append(f"{prefix}URL and {prefix}CREATOR are both set: keep one of them")
    if "url" not in values and "creator" not in values:
        problems.append(f"{prefix}URL is not set: give it a database URL, or set {prefix}CREATOR")
    sizes = _sizes(values, defaults, prefix, problems)
    # Nobody waits who may not, and nobody has to where there is no limit.
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


def _sizes(
    values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str, problems: list[str]
) -> dict[str, int]:
    """The four sizes. What is set stands, or is a problem; what is not set is made to fit."""
    chain = ("mincached", "maxcached", "maxconnections")
    _compare_sizes(values, defaults, prefix, problems)
    size = {
        name: values.get(name, defaults.get(name, PoolConfig.__dataclass_fields__[name].default))
        for name in (*chain, "maxshared")
    }
    if size["maxconnections"] and not ("maxconnections" in values or "maxconnections" in defaults):
        given = {**defaults, **values}
        asked = (given.get(name, 0) for name in ("mincached", "maxcached", "maxshared"))
        size["maxconnections"] = max(size["maxconnections"], *asked)
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
    """Find sizes that were set and can't both hold. An inherited maximum is a limit as well."""
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


_AUTOCOMMIT = re.compile(r"\bautocommit\b", re.IGNORECASE)


class _Bad(ValueError):
    """What is wrong with a value, as the rest of a sentence that begins with its key.

    It shows a number, and of anything else the type alone: a password may stand in any place.
    """


def _shown(value: Any) -> str:
    if isinstance(value, int | float):
        return str(value) if abs(value) < 1e15 else "a number as large as that"
    return f"a value of type {type(value).__name__}"


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise _Bad(f"must be a whole number, 0 or more, not {_shown(value)}")
    return value


def _seconds(value: Any) -> float:
    # A cap well inside what a lock's timeout takes: 100 years.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 3.2e9:
        raise _Bad(f"must be a number of seconds, 0 or more, not {_shown(value)}")
    return float(value)


def _positive_seconds(value: Any) -> float:
    seconds = _seconds(value)
    if not seconds:
        raise _Bad("must be more than 0 seconds: without it a hung server would hold a place")
    return seconds


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Bad(f"must be True or False, not {_shown(value)}")
    return value


def _statements(value: Any) -> tuple[str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise _Bad(f"must be a list of SQL statements, not {_shown(value)}")
    if not all(isinstance(statement, str) and statement.strip() for statement in value):
        raise _Bad("must hold SQL statements alone, each a non-empty string")
    if any(_AUTOCOMMIT.search(statement) for statement in value):
        raise _Bad(
            "must leave autocommit alone: scopes commit; use readonly=True for reads without one"
        )
    return tuple(value)


def _ping(value: Any) -> Ping:
    flag, check = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if check is None and (isinstance(flag, str) or callable(flag)):
        flag, check = 1, flag
    flag_fits = isinstance(flag, int) and not isinstance(flag, bool) and 0 <= flag <= 7
    check_fits = check is None or callable(check) or (isinstance(check, str) and check.strip())
    if not (flag_fits and check_fits):
        raise _Bad(
            "must be a number from 0 to 7, an SQL statement, a callable, "
            f"or a pair of a number and one of these, not {_shown(value)}"
        )
    return value  # type: ignore[no-any-return]


def _one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise _Bad(f"must be {' or '.join(map(repr, words))}, not {_shown(value)}")
        return value

    return check


def _bind_name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _Bad(f"must be the name of a bind, not {_shown(value)}")
    return value


def _url(value: Any) -> DatabaseURL:
    if value is None:
        raise _Bad("is None: give it a database URL, or remove the key")
    if not isinstance(value, str):
        raise _Bad(f"must be a database URL, not {_shown(value)}")
    try:
        return parse_url(value)
    except URLError as error:
        raise _Bad(str(error)) from None


def _creator(value: Any) -> Any:
    if not callable(value) and not callable(getattr(value, "connect", None)):
        raise _Bad(f"must be a DB-API 2 module or a callable, not {_shown(value)}")
    return value


def _connect_args(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _Bad(f"must be a mapping of argument names to values, not {_shown(value)}")
    return dict(value)


def _binds(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise _Bad(f"must be a mapping of bind names to URLs or mappings, not {_shown(value)}")
    if DEFAULT_BIND in value:
        raise _Bad(f"must not name {DEFAULT_BIND!r}: that bind is made of the top-level keys")
    for name, settings in value.items():
        mapping = isinstance(settings, Mapping) and all(isinstance(key, str) for key in settings)
        if not isinstance(settings, str) and not mapping:
            raise _Bad(f"[{name!r}] must be a URL or a mapping of keys, not {_shown(settings)}")
    return dict(value)


_BINDS_CHECK: Callable[[Any], Any] = _binds

_NEVER_NONE = frozenset({"URL"})

_CHECKS: dict[str, Callable[[Any], Any]] = {
    "URL": _url,
    "CREATOR": _creator,
    "CONNECT_ARGS": _connect_args,
    "MINCACHED": _count,
    "MAXCACHED": _count,
    "MAXSHARED": _count,
    "MAXCONNECTIONS": _count,
    "BLOCKING": _flag,
    "MAXUSAGE": _count,
    "SETSESSION": _statements,
    "PING": _ping,
    "ACQUIRE_TIMEOUT": _seconds,
    "MAX_WAITING": _count,
    "MAX_LIFETIME": _seconds,
    "IDLE_TIMEOUT": _seconds,
    "PING_AFTER": _seconds,
    "CONNECT_TIMEOUT": _positive_seconds,
    "STATEMENT_TIMEOUT": _seconds,
    "RESET": _one_of("rollback", "session"),
    "LEAK_THRESHOLD": _seconds,
    "HOST_ORDER": _one_of("given", "random"),
    "TARGET": _one_of("any", "primary"),
    "REPLICA": _bind_name,
    "REPLICA_FALLBACK": _flag,
}
