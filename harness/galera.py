"""Three Galera nodes on 127.0.0.1, to be killed, cut off and restarted."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pymysql

from harness.processes import Managed, ServerError, wait_until_ready
from harness.server import MariaDBServer, find_program, user_option
from harness.sockets import LOOPBACK, free_port

PROVIDER = Path("/usr/lib/galera/libgalera_smm.so")

_NODES = 3
_READY_TIMEOUT = 60.0
_RECOVERY_TIMEOUT = 60.0
# Failures are noticed within 1 to 2 s; by default it takes 5 to 15.
_TIMES = (
    "evs.keepalive_period=PT0.2S;evs.inactive_check_period=PT0.2S;evs.suspect_timeout=PT1S;"
    "evs.inactive_timeout=PT2S;evs.install_timeout=PT2S"
)


class GaleraNode(MariaDBServer):
    """One node. `start()` joins the cluster of its peers, and returns when it may be used."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        super().__init__(options)
        self._given = self.options
        self.group_port = free_port()
        self._transfer_port = free_port()
        self._state_port = free_port()
        self._peers: Sequence[GaleraNode] = ()

    def prepare(self) -> None:
        """Make the data that all nodes begin with."""
        super().start()
        self.stop()
        self.join([self], found=True)
        self.stop()

    def copy_to(self, other: GaleraNode) -> None:
        """Have another node begin with the data of this one, which is stopped."""
        shutil.copytree(self._data, other._data)

    def join(self, peers: Sequence[GaleraNode], *, found: bool = False) -> None:
        """Start as one of these; `found`: as the first of a new cluster."""
        self._peers = peers
        if found:
            self._launch_as(["--wsrep-new-cluster"])
        else:
            self.start()

    def start(self) -> None:
        self._launch_as([f"--wsrep-start-position={self._recovered_position()}"])

    def _launch_as(self, options: Sequence[str]) -> None:
        self.options = (*self._given, *self._cluster_options(), *options)
        self._open_up()
        super().start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return when it is a synced member of the primary component."""
        wait_until_ready(
            self._alive(), self._is_synced, "A Galera node", self.error_log, _READY_TIMEOUT
        )

    def _is_synced(self) -> bool:
        return self.status("wsrep_local_state_comment") == "Synced" and self.is_ready

    @property
    def is_ready(self) -> bool:
        """Whether it takes statements."""
        return self.status("wsrep_ready") == "ON"

    def status(self, name: str) -> str:
        """One of its status variables."""
        try:
            rows = self.query(f"SHOW STATUS LIKE '{name}'")
        except pymysql.err.Error:
            return ""  # it is just coming up
        return str(rows[0][1]) if rows else ""

    def cut_off(self) -> None:
        """Have it hear nothing of the others any more, nor they of it."""
        self.execute("SET GLOBAL wsrep_provider_options='gmcast.isolate=1'")

    def reconnect(self) -> None:
        """Take that back, and return when it has found the others."""
        self.execute("SET GLOBAL wsrep_provider_options='gmcast.isolate=0'")
        self.wait_until_ready()

    def _cluster_options(self) -> list[str]:
        port = self.group_port
        members = ",".join(f"{LOOPBACK}:{peer.group_port}" for peer in self._peers)
        provider = (
            f"base_host={LOOPBACK};base_port={port};ist.recv_addr={LOOPBACK}:{self._transfer_port};"
            f"gmcast.listen_addr=tcp://{LOOPBACK}:{port};gcache.size=64M;pc.recovery=false;{_TIMES}"
        )
        return [
            f"--tmpdir={self._directory}",
            "--wsrep-on=ON",
            f"--wsrep-provider={PROVIDER}",
            f"--wsrep-provider-options={provider}",
            "--wsrep-cluster-name=tests",
            f"--wsrep-cluster-address=gcomm://{members}",
            f"--wsrep-node-address={LOOPBACK}:{port}",
            f"--wsrep-sst-receive-address={LOOPBACK}:{self._state_port}",
            "--wsrep-sst-method=rsync",
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
        ]

    def _open_up(self) -> None:
        """Let anybody into its directory: where it runs as root, rsync still runs as nobody."""
        self._directory.chmod(0o755)
        self._data.chmod(0o777)

    def _recovered_position(self) -> str:
        """How far its data go, also after a crash; it does not run."""
        log = self._directory / "recovery.log"
        log.unlink(missing_ok=True)
        subprocess.run(
            [
                find_program("mariadbd"),
                "--no-defaults",
                *user_option(),
                f"--datadir={self._data}",
                f"--socket={self._directory / 'recovery.sock'}",
                f"--pid-file={self._directory / 'recovery.pid'}",
                f"--log-error={log}",
                "--innodb-log-file-size=8M",
                "--innodb-buffer-pool-size=32M",
                *self._given,
                *self._cluster_options(),
                "--wsrep-recover",
            ],
            check=True,
            timeout=_RECOVERY_TIMEOUT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        found = re.findall(r"Recovered position:? *([0-9a-f-]+:-?\d+)", log.read_text())
        if not found:
            raise ServerError(f"No position was recovered:\n{log.read_text()}")
        return str(found[-1])


class GaleraCluster(Managed):
    """Three nodes that replicate to one another; a context manager."""

    def __init__(self, options: Sequence[Sequence[str]] = ((),) * _NODES) -> None:
        self.nodes = [GaleraNode(given) for given in options]
        self._stack = ExitStack()

    def start(self) -> None:
        """Start the nodes one after the other; return when all are ready."""
        for node in self.nodes:
            self._stack.callback(node.close)
        first, *others = self.nodes
        first.prepare()
        for node in others:
            first.copy_to(node)
        first.join(self.nodes, found=True)
        for node in others:
            node.join(self.nodes)

    def close(self) -> None:
        """End the nodes."""
        self._stack.close()
