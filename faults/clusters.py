"""Faults of several servers: of Galera nodes, of a primary and its replica."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from faults.bank import open_bank
from faults.databases import Place
from faults.load import ACCOUNTS, Load, Tally
from faults.runs import Effort, Outcome, Scene, measure, open_files, open_ledger, perform_on
from faults.systems import SYSTEMS
from harness.galera import GaleraCluster, GaleraNode
from harness.haproxy import DatabaseHAProxy, allow_checks
from harness.replication import ReplicatedPair


def galera(kind: str, effort: Effort) -> Outcome:
    """Three Galera nodes, all named in the URL: kill -9 of one, one cut off from the others, a
    rolling restart. The times count from when the nodes that are left go on.
    """

    def strike(scene: Scene, nodes: list[GaleraNode]) -> None:
        _kill_node(scene, nodes)
        _cut_off_node(scene, nodes)
        _restart(scene, nodes[-effort.times(len(nodes)) :])

    return _on_galera(kind, effort, strike, behind_haproxy=False)


def galera_behind_haproxy(kind: str, effort: Effort) -> Outcome:
    """Three Galera nodes behind HAProxy: kill -9 of one, and a restart of another."""

    def strike(scene: Scene, nodes: list[GaleraNode]) -> None:
        _kill_node(scene, nodes)
        _restart(scene, nodes[2:])

    return _on_galera(kind, effort, strike, behind_haproxy=True)


def _kill_node(scene: Scene, nodes: list[GaleraNode]) -> None:
    with scene.outage():
        nodes[1].kill()
        _write(nodes[0], scene.database)
    with scene.outage():
        nodes[1].start()


def _cut_off_node(scene: Scene, nodes: list[GaleraNode]) -> None:
    with scene.outage():
        nodes[2].cut_off()
        _write(nodes[0], scene.database)
    with scene.outage():
        nodes[2].reconnect()


def _restart(scene: Scene, nodes: list[GaleraNode]) -> None:
    for node in nodes:
        with scene.outage():
            node.stop()
            node.start()


def _write(node: GaleraNode, database: str) -> None:
    """Return when the cluster takes writes: it stalls until it has given up a lost node."""
    node.execute(f"CREATE OR REPLACE TABLE `{database}`.probe (id INT PRIMARY KEY) ENGINE=InnoDB")


def _on_galera(
    kind: str,
    effort: Effort,
    strike: Callable[[Scene, list[GaleraNode]], None],
    *,
    behind_haproxy: bool,
) -> Outcome:
    with ExitStack() as stack:
        nodes = stack.enter_context(GaleraCluster()).nodes
        first = nodes[0]
        database = open_bank(first, ACCOUNTS)
        hosts = [(node.host, node.port) for node in nodes]
        settings = {"host_order": "random", "target": "primary"}
        if behind_haproxy:
            allow_checks(first)
            proxy = stack.enter_context(DatabaseHAProxy(nodes))
            hosts, settings = [(proxy.host, proxy.port)], {}
        ledger = stack.enter_context(open_ledger())
        files = open_files()
        system = SYSTEMS[kind](Place(hosts, database), **settings)
        load = Load(Tally(ledger, system.is_ours), partial(perform_on, system, lambda: None))
        scene = Scene(first, database, None, system, load, effort, others=nodes[1:])

        def settle() -> None:
            first.execute("SET SESSION wsrep_sync_wait=15")  # what is read now is up to date

        return measure(scene, lambda scene: strike(scene, nodes), files, settle)


def switch_over(kind: str, effort: Effort) -> Outcome:
    """Primary and replica, both named in the URL: the primary is demoted and the replica promoted,
    several times.
    """
    with ExitStack() as stack:
        pair = stack.enter_context(ReplicatedPair())
        database = open_bank(pair.primary, ACCOUNTS)
        pair.wait_until_caught_up()
        hosts = [(server.host, server.port) for server in pair.servers]
        ledger = stack.enter_context(open_ledger())
        files = open_files()
        system = SYSTEMS[kind](Place(hosts, database), target="primary")
        load = Load(Tally(ledger, system.is_ours), partial(perform_on, system, lambda: None))
        scene = Scene(pair.primary, database, None, system, load, effort, others=[pair.replica])

        def strike(scene: Scene) -> None:
            for _ in range(effort.times(4)):
                with scene.outage():
                    pair.demote()
                    pair.promote()

        return measure(scene, strike, files, pair.wait_until_caught_up)
