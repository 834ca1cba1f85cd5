"""All the faults, and the systems that each is let loose on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from faults import clusters, connections, greenlets, networks, requests, servers, workers
from faults.runs import Effort, Outcome

OURS = "ours"
PEERS = ("dbutils", "sqlalchemy", "mariadb-pool")
ON_PSYCOPG = "ours-psycopg"
PSYCOPG_PEERS = ("psycopg-pool", "psycopg-pool-check")
EVERYBODY = (OURS, "ours-retrying", "ours-mariadb", *PEERS)
ON_PYMYSQL = (OURS, "dbutils", "sqlalchemy")
"""The C library of MariaDB's connector does not work with gevent."""


@dataclass(frozen=True)
class Fault:
    """One way to break things."""

    name: str
    about: str
    run: Callable[[str, Effort], Outcome]
    systems: Sequence[str] = (OURS, *PEERS)
    """The first is in the short form too."""


def _fault(
    name: str, run: Callable[[str, Effort], Outcome], systems: Sequence[str] = (OURS, *PEERS)
) -> Fault:
    return Fault(name, " ".join((run.__doc__ or "").split()), run, systems)


def _of_gunicorn(name: str, run: Callable[..., Outcome], *, is_violent: bool) -> list[Fault]:
    """The fault without preload, and with it. Those that end a worker in good order are for ours
    alone; so is preload, but for the pool that connects before the fork.
    """
    about = " ".join((run.__doc__ or "").split())
    peers = PEERS if is_violent else ()
    connecting = ("mariadb-pool",) if is_violent else ()
    return [
        Fault(f"9-{name}", about, partial(run, preload=False), (OURS, *peers)),
        Fault(
            f"9-{name}-preload",
            f"{about} With `--preload`.",
            partial(run, preload=True),
            (OURS, *connecting),
        ),
    ]


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        _fault("1-kill", connections.kill_connections, EVERYBODY),
        _fault("2-crash", servers.crash, (OURS, "ours-mariadb", *PEERS)),
        _fault("3-restart", servers.restart),
        _fault("4-freeze", servers.freeze),
        _fault("5-deaf", networks.deaf),
        _fault("6-wait-timeout", connections.wait_timeout),
        _fault("7-max-connections", connections.max_connections),
        _fault("8-deadlocks", connections.deadlocks, EVERYBODY),
        *_of_gunicorn("kill", workers.kill_worker, is_violent=True),
        *_of_gunicorn("timeout", workers.stop_by_timeout, is_violent=True),
        *_of_gunicorn("reload", workers.reload, is_violent=False),
        *_of_gunicorn("max-requests", workers.max_requests, is_violent=False),
        _fault("10-galera", clusters.galera, (OURS,)),
        _fault("10-galera-haproxy", clusters.galera_behind_haproxy),
        _fault("11-switch-over", clusters.switch_over, (OURS, "ours-mariadb")),
        _fault("12-gevent", greenlets.random_timeouts, ON_PYMYSQL),
        _fault("13-requests", requests.random_errors, (OURS, "ours-mariadb", *PEERS)),
    )
}


def _on_postgresql(fault: Fault, systems: Sequence[str]) -> Fault:
    name, about = f"{fault.name}-postgresql", f"{fault.about} On PostgreSQL."
    return replace(fault, name=name, about=about, systems=systems)


_AGAIN = {
    "1-kill": (ON_PSYCOPG, "ours-psycopg-retrying", *PSYCOPG_PEERS),
    "2-crash": (ON_PSYCOPG, *PSYCOPG_PEERS),
    "3-restart": (ON_PSYCOPG, *PSYCOPG_PEERS),
    "4-freeze": (ON_PSYCOPG, *PSYCOPG_PEERS),
    "5-deaf": (ON_PSYCOPG, *PSYCOPG_PEERS),
    "6-wait-timeout": (ON_PSYCOPG, *PSYCOPG_PEERS),
    "7-max-connections": (ON_PSYCOPG, *PSYCOPG_PEERS),
    "8-deadlocks": (ON_PSYCOPG, "ours-psycopg-retrying", *PSYCOPG_PEERS),
    "9-kill": (ON_PSYCOPG, *PSYCOPG_PEERS),
    "9-kill-preload": (ON_PSYCOPG,),
    "9-timeout": (ON_PSYCOPG, *PSYCOPG_PEERS),
    "9-timeout-preload": (ON_PSYCOPG,),
    "9-reload": (ON_PSYCOPG,),
    "9-reload-preload": (ON_PSYCOPG,),
    "9-max-requests": (ON_PSYCOPG,),
    "9-max-requests-preload": (ON_PSYCOPG,),
    "12-gevent": (ON_PSYCOPG, "psycopg-pool"),
    "13-requests": (ON_PSYCOPG, *PSYCOPG_PEERS),
}
"""The faults that strike PostgreSQL as well, and on which systems."""

FAULTS |= {
    fault.name: fault
    for fault in (_on_postgresql(FAULTS[name], systems) for name, systems in _AGAIN.items())
}
