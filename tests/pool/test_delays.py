"""P5 on a fake driver: one hung connection delays nobody else."""

from __future__ import annotations

from tests.pool.helpers import close_all, let_rest, use
from tests.support.fake_driver import FakeDriver
from tests.support.pools import call, open_pool, queue_up


def test_p5_hung_connect(
    fake: FakeDriver,
) -> None:
    """A hung connect delays neither a checkout of an idle connection nor a return."""
    with open_pool(fake, maxconnections=3) as pool:
        close_all([pool.connection(), pool.connection()])
        gate = fake.hold("connect")
        leases = [pool.connection(), pool.connection()]
        hung = queue_up(pool, pool.connection)
        gate.wait_for_arrivals()
        leases.pop().close()  # goes to the one that waits
        hung.result().close()
        assert use(pool) in {1, 2}
        close_all(leases)
        gate.open()


def test_p5_hung_ping(fake: FakeDriver) -> None:
    """While one connection does not answer its ping, other callers are served."""
    with open_pool(fake, maxconnections=2, ping_after=100) as pool:
        close_all([pool.connection(), pool.connection()])
        let_rest(pool.engine.state.idle[-1])
        gate = fake.hold("ping")
        hung = call(use, pool)
        gate.wait_for_arrivals()
        assert use(pool) == 1
        gate.open()
        assert hung.result() == 2


def test_p5_hung_return(fake: FakeDriver) -> None:
    """While the rollback of one lease hangs, other leases are checked out and returned."""
    with open_pool(fake, maxconnections=2) as pool:
        close_all([pool.connection(), pool.connection()])
        gate = fake.hold("rollback")
        hung = call(use, pool)
        gate.wait_for_arrivals()
        with pool.connection() as conn:
            assert conn.cursor().fetchone()[0] == 1
        gate.open()
        hung.result()
