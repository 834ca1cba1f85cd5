"""P5 on a fake driver: one hung connection delays nobody else."""

from __future__ import annotations

from tests.pool.helpers import close_all, let_rest, use
from tests.support.fake_driver import FakeDriver
from tests.support.pools import (
    call,
    open_pool,
    queue_up,
)


def test_p5_a_checkout_with_an_idle_connection_does_not_wait_for_a_connect(
    fake: FakeDriver,
) -> None:
    """A connect that hangs delays nobody who can be served without it, nor a return."""
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


def test_p5_a_hung_ping_delays_nobody_else(fake: FakeDriver) -> None:
    """While one caller's connection does not answer, the others are served."""
    with open_pool(fake, maxconnections=2, ping_after=100) as pool:
        close_all([pool.connection(), pool.connection()])
        let_rest(pool.engine.state.idle[-1])
        gate = fake.hold("ping")
        hung = call(use, pool)
        gate.wait_for_arrivals()
        assert use(pool) == 1
        gate.open()
        assert hung.result() == 2


def test_p5_a_hung_return_delays_nobody_else(fake: FakeDriver) -> None:
    """While the rollback of one lease does not end, the others come and go."""
    with open_pool(fake, maxconnections=2) as pool:
        close_all([pool.connection(), pool.connection()])
        gate = fake.hold("rollback")
        hung = call(use, pool)
        gate.wait_for_arrivals()
        with pool.connection() as conn:
            assert conn.cursor().fetchone()[0] == 1
        gate.open()
        hung.result()
