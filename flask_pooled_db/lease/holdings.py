"""What a caller that gets no connection holds already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flask_pooled_db.config import shown
from flask_pooled_db.errors import PoolTimeout
from flask_pooled_db.lease.deadline import tell_limit
from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.owner import current_owner, id_of
from flask_pooled_db.pool import Engine
from flask_pooled_db.pool.budget import Member
from flask_pooled_db.runtime import callers, guard


def explain(error: BaseException, pool: Engine, holder: Iterable[Lease]) -> None:
    """Add to a `PoolTimeout` whether a deadline was its limit, and what its caller holds of the
    pool, or of all pools if their common limit was in the way: `holder` are the leases of its app
    context.
    """
    if not isinstance(error, PoolTimeout) or guard.is_inside():
        return
    tell_limit(error)
    if error.bind != pool.terms.bind:
        return  # it is about the replica
    budget, key = pool.supply.budget, "MAXCONNECTIONS"
    pools: list[Member] = [pool.supply]
    if budget is not None and error.binds_maxconnections:
        pools, key = budget.holders(), "BINDS_MAXCONNECTIONS"
    leases = list(holder)
    held = [what for member in pools for what in _held(member, pool, leases)]
    if held:
        text = (
            f"{error}; {callers.who()} holds {len(held)} of them already ({', '.join(held)}): "
            "callers that take one connection after the other can wait for each other, so take one "
            f"alone, or give POOLED_DB_{key} room for what all threads hold at once"
        )
        error.args = (text,)


def _held(member: Member, pool: Engine, leases: list[Lease]) -> Iterator[str]:
    caller = current_owner()
    of = "" if member.state is pool.state else f" of bind {shown(member.terms.bind)}"
    with member.state.lock:
        in_use = member.state.in_use_locked()
    # Several binds may be tenants of one pool.
    mine = [lease for lease in leases if lease.owner == caller]
    own = [lease for lease in mine if any(map(lease.lends, in_use))]
    for lease in own:
        how = f"taken {callers.at(lease.place)}" if lease.place else "by a db_connection_context()"
        yield how + of
    owner = id_of(caller)
    for entry in in_use:  # also without an app context
        link = entry.link
        if link.taken_by == owner and not any(lease.lends(entry) for lease in own):
            yield f"taken {callers.at(link.taken_at)}{of}"
