"""What psycopg's connect arguments say: where to connect, how long that may take, their names."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import socket
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any, cast

_WHERE = ("host", "hostaddr", "connect_timeout")


def where_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return libpq's parameters that say where to connect, and for how long to try."""
    params = {**parsed(arguments.get("conninfo")), **arguments}
    return {name: params[name] for name in _WHERE if params.get(name) is not None}


def parsed(conninfo: str | None) -> dict[str, Any]:
    """Return the parameters that a connection string holds."""
    if not conninfo:
        return {}
    module = importlib.import_module("psycopg.conninfo")  # only if it is used
    return dict(module.conninfo_to_dict(conninfo))


def seconds_for_each(where: Mapping[str, Any], seconds: float) -> int:
    """Return how long one address may take of the time for a connect, for psycopg tries each that a
    name has. It takes whole seconds, and two at least.
    """
    addresses = _count_addresses(where)
    share = seconds / addresses
    return max(math.ceil(share) if addresses == 1 else int(share), 1)


def _count_addresses(where: Mapping[str, Any]) -> int:
    """Return how many addresses psycopg may try."""
    if "hostaddr" in where:
        return len(str(where["hostaddr"]).split(","))
    return sum(map(_count_addresses_of, str(where.get("host", "")).split(",")))


def _count_addresses_of(host: str) -> int:
    try:
        return len(set(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
    except (OSError, ValueError):  # the path of a socket; a name that psycopg can't resolve either
        return 1


@functools.lru_cache(maxsize=8)
def names_of_arguments(dbapi: ModuleType) -> Collection[str]:
    """Return the names of the connect arguments that psycopg and libpq take."""
    api = cast("Any", dbapi)
    of_libpq = {option.keyword.decode() for option in api.pq.Conninfo.get_defaults()}
    return of_libpq.union(inspect.signature(api.Connection.connect).parameters)
