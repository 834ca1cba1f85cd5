"""The leases that a forked child inherits from its parent: they refuse to work there."""

from __future__ import annotations

import gc

from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.owner import stand_ins
from flask_pooled_db.pool.link import are_any_open
from flask_pooled_db.runtime import Part, join


class Inheritance(Part):
    """Finds the leases of the parent.

    The garbage collector knows them all. A list of them would cost every lease something, for a
    fork that hardly ever comes while one is out.
    """

    def __init__(self) -> None:
        self._has_any = False

    def before_fork(self) -> None:
        self._has_any = are_any_open()

    def after_fork_in_child(self) -> None:
        stand_ins.clear()  # the child's threads may get the numbers of the parent's
        if self._has_any:
            for thing in gc.get_objects():
                if issubclass(type(thing), Lease):  # isinstance() would ask proxies
                    thing.inherit()


join(4, Inheritance())
