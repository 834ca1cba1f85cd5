"""A scope inside another one: a part of that one's transaction, most often under a savepoint."""

from __future__ import annotations

import logging
from types import FrameType

from flask_pooled_db.config import ScopeOptions
from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.deadline import around
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.preamble import Part
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.shaping import able_to_shape, rows_of
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Engine
from flask_pooled_db.runtime import reporter

logger = logging.getLogger("flask_pooled_db")


class Nesting:
    """What a scope knows of the scope that it is a part of, if it is."""

    __slots__ = ("_joined", "_lease", "_part", "_pool", "finished", "frame", "options", "place")

    _pool: Engine
    options: ScopeOptions
    frame: FrameType | None  # of the generator or coroutine that it is in, while it is open
    place: tuple[str, int] | None  # where it was entered, if a message may need it
    _lease: LeaseConnection | None  # None unless it is open
    _part: Part | None  # None if it did not join another scope
    _joined: Nesting  # only if it did
    finished: tuple[str, int] | None  # where a block that has ended well had joined it

    def _join(self, lease: LeaseConnection) -> None:
        options = self.options
        if options.isolation_level is not None:
            raise UsageError(
                "isolation_level in a nested db_connection_context(): the transaction has begun; "
                "set it on the outermost block, or use independent=True"
            )
        outer = self._joined._part
        session = lease.session_of(outer)
        if options.readonly and not (session.readonly or lease.only_reads):
            raise UsageError(
                "readonly=True in a db_connection_context() that writes: the block is a part of "
                "its transaction; leave it out, or use independent=True"
            )
        # In a readonly scope each statement is on its own, and there is nothing to roll back.
        has_savepoint = options.savepoint and not session.readonly
        if options.statement_timeout is not None:
            session = session._replace(statement_timeout=options.statement_timeout)
        rows = rows_of(self._pool, options)
        if rows != "tuple":
            able_to_shape(lease)
        if around.get():
            lease.watch_time()
        self._part = Part(outer, self.frame, session, has_savepoint=has_savepoint, rows=rows)
        lease.enter_scope(self._part)

    def _end_nested(self, lease: LeaseConnection, part: Part, exc: BaseException | None) -> None:
        refusal = lease.why_not_ended(part)
        if exc is None and not refusal and lease.finish_part(part) and part.failure is not None:
            self._end_nested(lease, part, part.failure)  # as if it had left the block
            raise part.failure
        lease.leave_scope(part)
        if exc is not None and lease.after_commit is not None:
            lease.after_commit.undone(part)
        is_readonly = lease.session.readonly
        if refusal is not None:  # nothing is sent to undo it
            lease.abort(refusal)
            if exc is None:
                raise refusal
        elif exc is None:
            if lease.state is State.RELEASED and not is_readonly:
                lease.usable()  # raises: nobody else tells that this block's work was rolled back
            lease.end_savepoint(part, roll_back=False)
            self._joined.finished = self._joined.finished or self.place
        elif not part.has_savepoint:
            if not is_readonly:
                lease.abort(exc)
        elif part.set_as and lease.can_be_undone:
            self._undo(lease, part, exc)

    def _undo(self, lease: LeaseConnection, part: Part, exc: BaseException) -> None:
        """Roll back to the savepoint; where that is not enough, or too much, abort it all."""
        # The garbage collector may close a generator in any thread, in the middle of anything.
        is_ours = lease.state is not State.BUSY and lease.owner == current_owner()
        is_ours = is_ours and not lease.is_garbage
        if part.is_mixed or not is_ours:
            lease.abort(refusals.not_alone(self.place, exc))
            return
        try:
            lease.end_savepoint(part, roll_back=True)
        except Exception as error:  # noqa: BLE001  the caller must see its own error
            lease.abort(error)
            reporter.tell(
                logger.warning,
                "Rolling back to a savepoint failed (%s): the outer transaction is aborted",
                type(error).__name__,
            )

    def _tell_undone(
        self, lease: LeaseConnection, finished: tuple[str, int], exc: BaseException
    ) -> None:
        """Log what is lost with a generator that was not exhausted: whoever closed it sees no
        error.
        """
        if isinstance(exc, GeneratorExit) and lease.state > State.IDLE:
            reporter.tell(
                logger.error,
                "The generator that holds the block %s was closed before its end: what it had not "
                "committed is rolled back, and with it what the block %s did, which had ended "
                "without an error. Exhaust the generator, or give one of them independent=True",
                refusals.at(self.place),
                refusals.at(finished),
            )
