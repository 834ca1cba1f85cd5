"""What is wrong with the configuration of a database, its server and gunicorn, each on its own."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from typing import NamedTuple

from flask_pooled_db.config import PingPolicy, PoolConfig
from flask_pooled_db.flask.commands.live import seconds
from flask_pooled_db.flask.commands.servers.probing import Probe
from flask_pooled_db.flask.commands.servers.webserver import WebServer
from flask_pooled_db.telemetry.shown import shown

_TOO_LONG = (
    "a request that waits that long is killed with its worker, instead of being answered 503"
)
_NOT_KNOWN = (
    "what it sets is not known: correct it, or give --workers, --threads and --timeout as they are"
)

_WAITS = ("lock_wait_timeout", "innodb_lock_wait_timeout", "lock_timeout", "busy_timeout")
"""Limits of a statement's waiting for locks, not of its work."""

SHORT = 5.0
"""Seconds that a request may well need for other work between two statements."""


class Severity(enum.StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Requests would be lost."""
    WARNING = "warning"
    OK = "ok"


class Finding(NamedTuple):
    """What was found, and what to set."""

    severity: Severity
    bind: str | None
    """None: it is of the app as a whole."""
    topic: str
    text: str


Findings = Iterator[Finding]


class Terms(NamedTuple):
    """What all databases of the app have in common."""

    web: WebServer
    deadline: float
    """POOLED_DB_REQUEST_DEADLINE."""
    per_request: int = 1
    """How many connections of a bind a request has at the same time."""
    budget: int = 0
    """POOLED_DB_BINDS_MAXCONNECTIONS."""

    @property
    def is_bounded(self) -> bool:
        """Whether each request is over in time, whatever its database does."""
        return 0.0 < self.deadline < (self.web.patience or math.inf)


def unreachable(bind: str, error: str, remedy: str = "") -> Finding:
    """Return the finding of a bind that can't be reached; without a remedy the error has it."""
    text = f"it can't be reached: {shown(error)}{remedy and f'; {remedy}'}"
    return Finding(Severity.ERROR, bind, "reachable", text)


def of_app(terms: Terms) -> Findings:
    """Yield what is found of the app as a whole."""
    deadline, patience = terms.deadline, terms.web.patience
    if patience and deadline >= patience:
        text = (
            f"REQUEST_DEADLINE ({deadline:g} s) is not less than gunicorn's timeout "
            f"({patience:g} s): {_TOO_LONG}; set it to less than {patience:g}"
        )
        yield Finding(Severity.ERROR, None, "deadline", text)
    elif terms.is_bounded and patience:
        text = (
            f"a request has {deadline:g} s for its databases (REQUEST_DEADLINE), less than "
            f"gunicorn's timeout ({patience:g} s)"
        )
        yield Finding(Severity.OK, None, "deadline", text)
    need = terms.web.at_once * terms.per_request
    if terms.web.counts_threads and 0 < terms.budget < need:
        text = (
            f"a worker's {terms.web.at_once} threads need {need} connections, and all binds "
            f"together have {terms.budget} (BINDS_MAXCONNECTIONS): {need - terms.budget} of them "
            f"wait; set it to {need} at least"
        )
        yield Finding(Severity.WARNING, None, "threads", text)
    if not terms.web.is_known:
        text = "nothing tells how many workers gunicorn has: 1 is assumed; give --workers"
        yield Finding(Severity.WARNING, None, "gunicorn", text)
    for note in terms.web.notes:
        yield Finding(Severity.WARNING, None, "gunicorn", f"{note}: {_NOT_KNOWN}")


def of_probe(one: Probe, terms: Terms) -> Findings:
    """Yield what is found of a bind that was reached."""
    yield from _of_connection(one)
    yield from _of_rest(one)
    yield from _of_transactions(one)
    if not terms.is_bounded:
        yield from _of_waiting(one, terms.web)
        yield from _of_statements(one, terms.web)
    yield from _of_threads(one, terms)
    yield from _of_sqlite(one, terms.web)


def _finding(one: Probe, topic: str, severity: Severity, text: str) -> Finding:
    return Finding(severity, one.bind, topic, text)


def _of_connection(one: Probe) -> Findings:
    """Yield what the way to the server is like."""
    facts, own = one.facts, one.own
    if facts is not None and facts.changes_ids:
        text = "a proxy is in between that gives connections other ids than the server"
        is_declared = one.pool.config.proxy is not None
        if is_declared:
            text += ", as PROXY says"
        text += ": what is said here of the server's limits does not take the proxy's into account"
        text += "" if is_declared else ": compare them as well"
        if facts.product == "PostgreSQL" and not is_declared:
            text += (
                "; it was not declared: if it is pgbouncer in transaction mode, what a block does "
                "to its session shows in other programs' transactions: set PROXY to 'transaction'"
            )
        yield _finding(one, "proxy", Severity.OK if is_declared else Severity.WARNING, text)
    if facts is None or facts.tls is None or own is None:
        return
    is_local = own.port is None or own.host in ("127.0.0.1", "::1", "localhost")
    if not facts.tls and not is_local:
        text = (
            "the connection is not encrypted, and leaves this machine: ask for TLS in the URL, "
            "and for the server's certificate to be verified"
        )
        yield _finding(one, "tls", Severity.WARNING, text)


def _of_rest(one: Probe) -> Findings:
    """Yield whether the pool closes idle connections before the server does."""
    limit = None if one.facts is None else one.facts.idle_timeout
    if limit is None or not limit.value or one.is_proxied:
        return  # the server's idle connections are the proxy's
    config, name = one.pool.config, f"{limit.name} ({limit.value:g} s)"
    rest, key = _longest_rest(config)
    if rest < limit.value:
        text = f"the pool closes idle connections after {rest:g} s, before the server's {name}"
        yield _finding(one, "idle", Severity.OK, text)
        return
    ping, told = PingPolicy.parse(config.ping), f"for up to {rest:g} s ({key})"
    if math.isinf(rest):
        told = f"without a limit ({key} is 0)"
    what = f"connections rest in the pool {told}, and the server ends them at its {name}: "
    cure = f"set {key} to less than {limit.value:g}"
    trust = config.ping_after if ping.on_checkout else math.inf
    if trust >= limit.value and ping.probe is None:
        why = "PING_AFTER is no less" if ping.on_checkout else "PING has no flag 1"
        text = f"{what}one may end just as it is lent, and its request fails, for {why}; {cure}"
        yield _finding(one, "idle", Severity.ERROR, text)
    else:
        text = f"{what}callers then wait for new ones; {cure}"
        yield _finding(one, "idle", Severity.WARNING, text)


def _of_transactions(one: Probe) -> Findings:
    """Yield after what time the server ends a transaction by itself."""
    for limit in () if one.facts is None else one.facts.transaction_timeouts:
        if not limit.value:
            continue
        text = (
            f"the server ends a transaction at its {limit.name} ({limit.value:g} s): a request "
            "that does other work amid one for longer ends in TransactionAborted"
        )
        if limit.value >= SHORT:
            yield _finding(one, "transactions", Severity.OK, text)
            continue
        cure = f"raise it to {SHORT:g} s at least, at the server or by SETSESSION"
        if math.ceil(one.pool.config.transaction_timeout) == math.ceil(limit.value):
            cure = f"set TRANSACTION_TIMEOUT, which sets it, to {SHORT:g} at least"
        text += f"; {cure}, or do such work outside of transactions"
        yield _finding(one, "transactions", Severity.WARNING, text)


def _longest_rest(config: PoolConfig) -> tuple[float, str]:
    """Return for how many seconds a connection may be idle, and the key that says so."""
    limits = [
        (value, key)
        for value, key in (
            (config.max_lifetime, "MAX_LIFETIME"),
            (config.drain_interval, "DRAIN_INTERVAL"),
            (0.0 if config.mincached else config.idle_timeout, "IDLE_TIMEOUT"),
        )
        if value
    ]
    return min(limits, default=(math.inf, "MAX_LIFETIME"))


def _of_waiting(one: Probe, web: WebServer) -> Findings:
    """Yield whether a request that waits for a connection outlives its worker."""
    config, patience = one.pool.config, web.patience
    wait = config.acquire_timeout
    if patience and wait >= patience:
        text = (
            f"ACQUIRE_TIMEOUT ({wait:g} s) is not less than gunicorn's timeout ({patience:g} s): "
            f"{_TOO_LONG}; set it to less than {patience:g}, or raise gunicorn's timeout"
        )
        yield _finding(one, "waiting", Severity.ERROR, text)
    elif wait >= web.grace:
        text = (
            f"ACQUIRE_TIMEOUT ({wait:g} s) is not less than gunicorn's graceful_timeout "
            f"({web.grace:g} s): a request that waits so long when gunicorn reloads is lost; set "
            f"it to less than {web.grace:g}"
        )
        yield _finding(one, "waiting", Severity.WARNING, text)
    else:
        text = f"a caller waits for a connection for {wait:g} s at most, less than "
        text += f"gunicorn's timeout ({patience:g} s)"
        if not patience:
            text = (
                f"a caller waits for a connection for {wait:g} s at most; gunicorn kills no "
                f"{web.kind} worker for a slow request, and gives it {web.grace:g} s on a reload"
            )
        yield _finding(one, "waiting", Severity.OK, text)


def _of_statements(one: Probe, web: WebServer) -> Findings:
    """Yield whether a statement outlives its worker, unless a deadline of requests sees to that."""
    patience, config = web.patience, one.pool.config
    if not patience or one.facts is None:
        return
    limits = {"STATEMENT_TIMEOUT": config.statement_timeout}
    limits |= {limit.name: limit.value for limit in one.facts.statement_timeouts}
    found = [(value, name) for name, value in limits.items() if value and name not in _WAITS]
    value, name = min(found, default=(0.0, "STATEMENT_TIMEOUT"))
    if value and value + config.acquire_timeout < patience:
        text = f"a statement runs for {value:g} s at most ({name}), which gunicorn's timeout allows"
        yield _finding(one, "statements", Severity.OK, text)
        return
    told = f"{name} is {value:g} s" if value else "nothing limits statements"
    text = (
        f"{told}, and with ACQUIRE_TIMEOUT before it ({config.acquire_timeout:g} s) a request may "
        f"exceed gunicorn's timeout ({patience:g} s): its worker is killed amid the statement, "
        "which goes on at the server; set STATEMENT_TIMEOUT, or REQUEST_DEADLINE, to less"
    )
    yield _finding(one, "statements", Severity.WARNING, text)


def _of_threads(one: Probe, terms: Terms) -> Findings:
    """Yield whether each thread of a worker can have its connections."""
    config, threads, each = one.pool.config, terms.web.at_once, terms.per_request
    most, need = config.maxconnections, threads * each
    if not most or not terms.web.counts_threads:
        return
    if need <= most:
        have = "one thread can" if threads == 1 else f"{threads} threads can each"
        mine = "one" if each == 1 else str(each)
        text = f"a worker's {have} have {mine} of its {most} connections"
        yield _finding(one, "threads", Severity.OK, text)
        return
    times = "" if each == 1 else f" that need {each} connections each,"
    what = f"a worker has {threads} threads{times} and {most} connections (MAXCONNECTIONS)"
    fewer = f", or gunicorn's threads to {most // each}" if most >= each else ""
    cure = f"set MAXCONNECTIONS to {need}{fewer}"
    if not config.blocking:
        text = f"{what}: with BLOCKING False, what goes beyond {most} fails; {cure}"
        yield _finding(one, "threads", Severity.ERROR, text)
    elif config.max_waiting and need > most + config.max_waiting:
        text = f"{what}: with MAX_WAITING {config.max_waiting}, some requests fail; {cure}"
        yield _finding(one, "threads", Severity.ERROR, text)
    elif each > 1 and threads * (each - 1) >= most:
        text = f"{what}: all may have some, and wait for one more until they fail; {cure}"
        yield _finding(one, "threads", Severity.ERROR, text)
    else:
        more = f"{need - most} of them wait, for up to {seconds(config.acquire_timeout)}"
        yield _finding(one, "threads", Severity.WARNING, f"{what}: {more}; {cure}")


def _of_sqlite(one: Probe, web: WebServer) -> Findings:
    facts = one.facts
    if facts is None or facts.journal_mode is None:
        return
    if facts.journal_mode == "memory":
        severity = Severity.ERROR if web.workers > 1 else Severity.WARNING
        text = (
            "the database is in memory: each worker has one of its own, which is gone with it; use "
            "a file"
        )
        yield _finding(one, "sqlite", severity, text)
        return
    if facts.journal_mode != "wal":
        text = (
            f"the journal mode is {facts.journal_mode!r}: whoever reads holds up who writes; set "
            "journal_mode to 'wal'"
        )
        yield _finding(one, "sqlite", Severity.WARNING, text)
    busy = max(limit.value for limit in facts.statement_timeouts)
    if web.patience and busy >= web.patience:
        text = (
            f"a statement waits for the file's lock for {busy:g} s, not less than gunicorn's "
            f"timeout ({web.patience:g} s): {_TOO_LONG}; set the connect argument 'timeout' to less"
        )
        yield _finding(one, "sqlite", Severity.ERROR, text)
    many = one.pool.config.maxconnections
    text = (
        f"SQLite has one writer at a time: all {many or 'any number of'} connections of each "
        f"worker write one after the other, and wait up to {busy:g} s for their turn"
    )
    yield _finding(one, "sqlite", Severity.OK, text)
