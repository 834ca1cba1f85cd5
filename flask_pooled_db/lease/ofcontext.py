"""The lease of an app context, which ends with it, in whatever thread it is used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

from flask_pooled_db.lease.borrowed import BorrowedLease
from flask_pooled_db.lease.owner import current_owner


class ContextLease(BorrowedLease):
    """A borrowed lease that another thread than its owner's may end at any moment.

    The owner may be a thread that outlives the context, such as that of an executor. A lock tells
    whether it is in the middle of a call: then the end of the call ends the lease.
    """

    __slots__ = ("_calling",)

    tells_loss_when_revoked: ClassVar = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._calling = threading.RLock()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver."""
        return self._locked(super().call, function, *args)

    def fetch(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver for what a statement has left."""
        return self._locked(super().fetch, function, *args)

    def _locked(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            with self._calling:
                return call(*args)
        finally:
            if self._revoked is not None:  # perhaps since the call has looked
                self.release()

    def revoke(self, reason: str, *, is_leak: bool = True) -> None:
        """Release the lease; a call under way ends first."""
        if self.owner == current_owner():
            super().revoke(reason, is_leak=is_leak)
            return
        self._revoked = reason
        if self._calling.acquire(blocking=False):
            try:
                super().revoke(reason, is_leak=is_leak)
            finally:
                self._calling.release()
