"""One run: a server, a pool, threads of transfers, a fault, and what is measured after it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from faults.bank import Audit, Ledger, Transfer, open_bank
from faults.databases import Options, Place, Server, make_proxy, running_server
from faults.load import ACCOUNTS, THREADS, Load, Tally
from faults.systems import SYSTEMS, System
from harness.proxy import Proxy
from harness.server import APP_USER
from harness.tls import Certificates
from harness.waiting import PATIENCE, holds_within

WINDOW = 0.5
FULL_SHARE = 0.8
"""Throughput is full again with a window of so many seconds at this share of the rate before."""

SETTLE_TIMEOUT = 5.0


@dataclass(frozen=True)
class Effort:
    """How long a run takes."""

    before: float
    """Seconds of load before the fault."""
    patience: float
    """Seconds to wait for full throughput after it."""
    scale: float
    """What a fault's own counts and durations are multiplied by."""
    certificates: Certificates | None = None
    """Those of the server, where the load is to run over TLS: for the faults that `run` runs."""

    def times(self, count: int) -> int:
        """A count of the long form, in this one."""
        return max(1, round(count * self.scale))


FULL = Effort(before=1.0, patience=10.0, scale=1.0)
QUICK = Effort(before=0.6, patience=5.0, scale=0.3)


@dataclass
class Outcome:
    """What was measured. Times are seconds; None: not reached, or nothing to measure."""

    audit: Audit
    errors: dict[str, int] = field(default_factory=dict)
    undocumented: list[str] = field(default_factory=list)
    stuck: int = 0
    """Threads that never came back."""
    in_use: int = 0
    server_connections: int = 0
    maxconnections: int = 0
    files_before: int = 0
    files_after: int = 0
    rate: float = 0.0
    outages: int = 0
    first_success: float | None = None
    full_throughput: float | None = None

    @property
    def leaked(self) -> int:
        """Connections still lent, or beyond the limit on the server, and files left open."""
        beyond = self.server_connections - self.maxconnections
        return self.in_use + max(0, beyond) + max(0, self.files_after - self.files_before)

    @property
    def problems(self) -> list[str]:
        """What of the extension's promises was broken, but for the times."""
        audit = self.audit
        found = {
            "acknowledged commits lost": audit.lost,
            "transfers doubled": audit.doubled,
            "half transfers": audit.half,
            "transfers there that were said to have failed": audit.denied,
            "money made or lost": audit.imbalance,
            "threads stuck": self.stuck,
            "connections in use at the end": self.in_use,
            "connections too many on the server": self.server_connections - self.maxconnections,
            "files left open": self.files_after - self.files_before,
        }
        broken = [f"{what}: {count}" for what, count in found.items() if count > 0]
        if audit.imbalance < 0:
            broken.append(f"money lost: {-audit.imbalance}")
        return broken + [f"undocumented error: {error}" for error in self.undocumented]


@dataclass(frozen=True)
class Outage:
    """A time in which the database could not be used."""

    began: float
    ended: float


class Scene:
    """What a fault has at hand."""

    def __init__(
        self,
        server: Server,
        database: str,
        proxy: Proxy | None,
        system: System,
        load: Load,
        effort: Effort,
        others: Sequence[Server] = (),
    ) -> None:
        self.server = server
        self.servers = [server, *others]
        self.database = database
        self._proxy = proxy
        self.system = system
        self.load = load
        self.effort = effort
        self.rate = 0.0
        self.outages: list[Outage] = []

    @property
    def proxy(self) -> Proxy:
        """The network, for the faults that asked for one."""
        assert self._proxy is not None
        return self._proxy

    def warm_up(self) -> None:
        """Wait for the load to be steady, and measure its rate."""
        self.wait_for(lambda: len(self.load.tally.successes) >= THREADS, "the first transfers")
        started, before = time.monotonic(), len(self.load.tally.successes)
        time.sleep(self.effort.before)
        self.rate = (len(self.load.tally.successes) - before) / (time.monotonic() - started)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """A block in which the database is away; wait afterwards until the load has recovered."""
        began = time.monotonic()
        yield
        self.outages.append(Outage(began, time.monotonic()))
        outage = self.outages[-1]
        holds_within(self.effort.patience, lambda: self._full_after(outage) is not None, 0.01)
        if self.system.is_ours:  # on a busy machine that may take its time
            holds_within(PATIENCE, lambda: self._first_after(outage) is not None)

    def recovery(self) -> tuple[float | None, float | None]:
        """The worst times to the first success, and to full throughput, of all outages."""
        return (
            _worst([self._first_after(outage) for outage in self.outages]),
            _worst([self._full_after(outage) for outage in self.outages]),
        )

    def _first_after(self, outage: Outage) -> float | None:
        later = (at for at in self.load.tally.successes if at > outage.ended)
        return next((at - outage.ended for at in later), None)

    def _full_after(self, outage: Outage) -> float | None:
        enough = FULL_SHARE * self.rate * WINDOW
        now = time.monotonic()
        times = [at for at in list(self.load.tally.successes) if at > outage.ended]
        for place, start in enumerate([outage.ended, *times]):
            if start + WINDOW > now:
                return None
            inside = sum(1 for _ in itertools.takewhile(partial(_until, start), times[place:]))
            if inside >= enough:
                return start - outage.ended
        return None

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Return when the condition holds."""
        if not holds_within(PATIENCE, condition):
            raise TimeoutError(
                f"waited in vain for {what}; errors so far: {self.load.tally.errors}"
            )


def _until(start: float, at: float) -> bool:
    return at <= start + WINDOW


def _worst(times: Sequence[float | None]) -> float | None:
    known = [seconds for seconds in times if seconds is not None]
    return max(known) if known and len(known) == len(times) else None


@dataclass(frozen=True)
class Setting:
    """What a fault wants to be set up."""

    options: Options = field(default_factory=dict)
    behind_proxy: bool = False
    accounts: int = ACCOUNTS
    ordered: bool = True
    between: Callable[[], object] = lambda: None
    system_settings: dict[str, Any] = field(default_factory=dict)


def run(
    kind: str, effort: Effort, strike: Callable[[Scene], None], setting: Setting | None = None
) -> Outcome:
    """Let a fault strike one of the systems under load, on a server of its own."""
    setting = setting or Setting()
    with ExitStack() as stack:
        certificates = effort.certificates
        server = stack.enter_context(
            running_server(SYSTEMS[kind].database, setting.options, certificates)
        )
        database = open_bank(server, setting.accounts)
        proxy = None
        if setting.behind_proxy:
            proxy = stack.enter_context(make_proxy(server))
        place = Place(
            [(server.host, proxy.port if proxy else server.port)],
            database,
            str(certificates.ca) if certificates else None,
        )
        ledger = stack.enter_context(open_ledger())
        files = open_files()
        system = SYSTEMS[kind](place, **setting.system_settings)
        load = Load(
            Tally(ledger, system.is_ours),
            partial(perform_on, system, setting.between),
            accounts=setting.accounts,
            ordered=setting.ordered,
        )
        scene = Scene(server, database, proxy, system, load, effort)
        return measure(scene, strike, files)


def perform_on(system: System, between: Callable[[], object], transfer: Transfer) -> None:
    """Do a transfer as a request does it."""
    with system.app.app_context():
        system.transact(partial(transfer, between=between))


@contextmanager
def open_ledger() -> Iterator[Ledger]:
    """A ledger in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="pooled-db-ledger-") as directory:
        ledger = Ledger(Path(directory) / "ledger")
        try:
            yield ledger
        finally:
            ledger.close()


def measure(
    scene: Scene,
    strike: Callable[[Scene], None],
    files: int,
    settle: Callable[[], object] = lambda: None,
) -> Outcome:
    """Run the load, let the fault strike, end it all and look at what is left, on the first of the
    servers; `settle` waits until it has everything.
    """
    load = scene.load
    load.start()
    try:
        scene.warm_up()
        strike(scene)
    finally:
        stuck = load.stop()
    settle()
    outcome = take_stock(scene.servers, scene.database, scene.system, load.tally, files)
    outcome.stuck = stuck
    outcome.rate = scene.rate
    outcome.outages = len(scene.outages)
    outcome.first_success, outcome.full_throughput = scene.recovery()
    return outcome


def take_stock(
    servers: Sequence[Server], database: str, system: System, tally: Tally, files: int
) -> Outcome:
    """Look at what is left when all is quiet, and close the system."""
    wait_to_settle(lambda: system.in_use() == 0)
    in_use = system.in_use()
    wait_to_settle(lambda: connections(*servers) <= system.maxconnections)
    outcome = Outcome(
        audit=tally.ledger.audit(servers[0], database),
        errors=dict(tally.errors),
        undocumented=sorted(tally.undocumented),
        in_use=in_use,
        server_connections=connections(*servers),
        maxconnections=system.maxconnections,
        files_before=files,
    )
    with contextlib.suppress(Exception):  # a peer's own failure to close shows in what is left
        system.close()
    gc.collect()
    wait_to_settle(lambda: open_files() <= files)
    outcome.files_after = open_files()
    return outcome


def connections(*servers: Server) -> int:
    """How many connections the application's user has."""
    return sum(len(server.connections(APP_USER)) for server in servers)


def open_files() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  a Path opens one of its own


def wait_to_settle(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, or when it had time enough to."""
    holds_within(SETTLE_TIMEOUT, condition)
